//go:build !amd64 && !arm64

package kernel

// pause tells the processor that this thread spins; there is no way to, here.
func pause() {}
