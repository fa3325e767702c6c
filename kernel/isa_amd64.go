package kernel

import "golang.org/x/sys/cpu"

// machineISAs asks the processor. AVX512 stands for the sets that every server
// chip with AVX-512 has (F, BW, DQ, VL), so that kernels need no finer choice.
func machineISAs() (isas []ISA) {
	x := cpu.X86
	if !x.HasAVX2 || !x.HasFMA || !hasF16C() {
		return nil
	}
	isas = append(isas, AVX2)
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL {
		isas = append(isas, AVX512)
	}
	return isas
}

// hasF16C reports whether half-precision conversions are there. x/sys/cpu does
// not say; the operating system's support for them is that for AVX.
func hasF16C() bool {
	const f16c = 1 << 29
	return cpuid1ECX()&f16c != 0
}

// cpuid1ECX returns ECX of CPUID leaf 1.
//
//go:noescape
func cpuid1ECX() uint32
