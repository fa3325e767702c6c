//go:build !amd64

package kernel

// machineISAs: other machines run the portable kernels.
func machineISAs() []ISA { return nil }
