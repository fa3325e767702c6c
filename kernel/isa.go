package kernel

import "fmt"

// ISA is an instruction set that the CPU device has kernels for. The choice
// changes the speed of a result and never its bits.
type ISA uint8

// Instruction sets. Auto is the fastest that the machine has.
const (
	Auto ISA = iota
	Portable
	AVX2
	AVX512
)

var isaNames = [...]string{Auto: "auto", Portable: "portable", AVX2: "avx2", AVX512: "avx512"}

// String returns the name that ParseISA takes.
func (i ISA) String() string {
	if int(i) < len(isaNames) {
		return isaNames[i]
	}
	return fmt.Sprintf("ISA(%d)", uint8(i))
}

// ParseISA is the inverse of String.
func ParseISA(s string) (ISA, error) {
	for i, name := range isaNames {
		if s == name {
			return ISA(i), nil
		}
	}
	return Auto, fmt.Errorf("instruction set %q: want one of %q", s, isaNames)
}

// UnmarshalText parses, for command lines and configuration files.
func (i *ISA) UnmarshalText(text []byte) (err error) {
	*i, err = ParseISA(string(text))
	return err
}

// Available lists the instruction sets that this machine can run, the slowest
// first; Portable is always among them.
func Available() []ISA {
	return append([]ISA{Portable}, machineISAs()...)
}

// resolve turns Auto into a real choice and refuses what the machine lacks.
func (i ISA) resolve() (ISA, error) {
	available := Available()
	if i == Auto {
		return available[len(available)-1], nil
	}
	for _, a := range available {
		if a == i {
			return i, nil
		}
	}
	return i, fmt.Errorf("instruction set %v: this machine has %v", i, available)
}
