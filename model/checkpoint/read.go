package checkpoint

import "os"

// readBytes reads a whole file, where it cannot be mapped.
func readBytes(path string) ([]byte, func() error, error) {
	data, err := os.ReadFile(path)
	return data, func() error { return nil }, err
}
