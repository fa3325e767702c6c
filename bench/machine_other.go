//go:build !darwin

package bench

// brand: this system has no other name for the processor.
func brand() string { return "" }
