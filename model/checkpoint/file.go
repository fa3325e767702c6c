package checkpoint

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// file is an open file whose header is valid. Its tensors are read, not mapped:
// a file that another program cuts short while it is open then is an error with
// its name, where a mapping would end the process by SIGBUS.
type file struct {
	name   string
	header *header
	mem    []byte   // the whole file, where it is in memory
	from   *os.File // otherwise
}

// openFile opens a file on disk and validates its header.
func openFile(path string) (*file, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, fmt.Errorf("open the checkpoint: %w", err)
	}
	h, err := readHeader(path, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &file{name: path, header: h, from: f}, nil
}

// openRegular opens a file. To open a pipe would wait for somebody to write to it.
func openRegular(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file (%v)", path, info.Mode().Type())
	}
	return os.Open(path)
}

// newFile takes a file that is in memory.
func newFile(name string, data []byte) (*file, error) {
	h, err := parseHeader(name, data, int64(len(data)))
	if err != nil {
		return nil, err
	}
	return &file{name: name, header: h, mem: data}, nil
}

// pointerStart begins the text that Git leaves in the place of a large file
// until Git LFS has fetched it.
const pointerStart = "version https://git-lfs"

// pointerReason says what to do about one.
const pointerReason = "this is a Git LFS pointer, the file has not been downloaded: run \"git lfs pull\" in its folder"

// IsPointer says whether a file that starts so is Git LFS's pointer to a file,
// and not the file.
func IsPointer(start []byte) bool { return bytes.HasPrefix(start, []byte(pointerStart)) }

// readHeader reads as much of a file as its header needs.
func readHeader(path string, f *os.File) (*header, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open the checkpoint: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open the checkpoint: %s: is not a regular file", path)
	}
	start := make([]byte, min(info.Size(), int64(len(pointerStart))))
	if _, err := f.ReadAt(start, 0); err != nil {
		return nil, fmt.Errorf("open the checkpoint: %s: %w", path, err)
	}
	if IsPointer(start) {
		return nil, &FormatError{File: path, Reason: pointerReason}
	}
	need := min(info.Size(), headerEnd(start))
	head := make([]byte, need)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("open the checkpoint: %s: %w", path, err)
	}
	return parseHeader(path, head, info.Size())
}

// headerEnd is where the header of a file that starts so would end. What is no
// header ends at once: parseHeader says why.
func headerEnd(start []byte) int64 {
	if len(start) < lengthBytes {
		return int64(len(start))
	}
	n := binary.LittleEndian.Uint64(start)
	if n > maxHeader {
		return lengthBytes
	}
	return lengthBytes + int64(n)
}

// close gives the file back.
func (f *file) close() error {
	f.mem = nil
	if f.from == nil {
		return nil
	}
	err := f.from.Close()
	f.from = nil
	return err
}

// place is where a tensor lies.
type place struct {
	file *file
	entry
}

// size is the tensor's bytes.
func (p place) size() int64 { return p.end - p.begin }

// offset is where the tensor starts in its file.
func (p place) offset() int64 { return p.file.header.data + p.begin }

// held returns bytes from to to of the tensor without a copy, and whether they
// are in memory.
func (p place) held(from, to int64) ([]byte, bool) {
	if p.file.mem == nil {
		return nil, p.file.from == nil
	}
	at := p.offset()
	return p.file.mem[at+from : at+to : at+to], true
}

// read fills b with the tensor's bytes from an offset on.
func (p place) read(b []byte, from int64) error {
	if p.file.from == nil {
		data, _ := p.held(from, from+int64(len(b)))
		if copy(b, data) < len(b) {
			return p.fail("cannot be read: the checkpoint is closed")
		}
		return nil
	}
	n, err := p.file.from.ReadAt(b, p.offset()+from)
	switch {
	case n == len(b):
		return nil
	case errors.Is(err, io.EOF):
		return p.fail("the file ends at byte %d: it has been cut short since it was opened", p.offset()+from+int64(n))
	}
	return p.fail("reading byte %d: %v", p.offset()+from+int64(n), err)
}

// bytes returns bytes from to to of the tensor: in place where they are in
// memory, else read into buffer, or into new memory where it is too small.
func (p place) bytes(from, to int64, buffer []byte) ([]byte, error) {
	if data, ok := p.held(from, to); ok {
		if data == nil && to > from {
			return nil, p.fail("cannot be read: the checkpoint is closed")
		}
		return data, nil
	}
	if buffer == nil || int64(cap(buffer)) < to-from {
		buffer = make([]byte, to-from)
	}
	b := buffer[: to-from : to-from]
	return b, p.read(b, from)
}

// fail is an error about the tensor that names its file and offset.
func (p place) fail(format string, args ...any) error {
	return &FormatError{File: p.file.name, Tensor: p.name, Offset: p.offset(), Reason: fmt.Sprintf(format, args...)}
}
