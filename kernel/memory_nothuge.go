//go:build unix && !linux

package kernel

// adviseHuge: huge pages cannot be asked for here.
func adviseHuge([]byte) {}
