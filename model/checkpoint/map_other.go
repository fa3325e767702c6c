//go:build !unix

package checkpoint

// mapBytes reads a file where there is no mmap.
func mapBytes(path string) ([]byte, func() error, error) { return readBytes(path) }
