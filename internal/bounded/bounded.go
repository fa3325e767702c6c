// Package bounded owns how a file or stream from outside is read whole: up to a
// limit, beyond which it is an error instead of memory. It may not know what is
// read.
package bounded

import (
	"fmt"
	"io"
	"io/fs"
)

// TooLong is the error of what has more bytes than may be read.
type TooLong struct{ Limit int64 }

// Error says the limit, for a sentence that begins with a file's name.
func (e *TooLong) Error() string { return fmt.Sprintf("has more than %d bytes", e.Limit) }

// Read reads r to its end, at most limit bytes; where there are more, the error is a
// *TooLong, which names no file.
func Read(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(data)) > limit:
		return nil, &TooLong{limit}
	}
	return data, nil
}

// ReadFile reads a file of at most limit bytes. Its errors name the file.
func ReadFile(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := Read(f, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}
