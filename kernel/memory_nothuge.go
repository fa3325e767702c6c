//go:build !linux

package kernel

// adviseHuge: huge pages cannot be asked for here.
func adviseHuge([]byte) {}
