package hub

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/tandem-moe/tandem/model/checkpoint"
)

// Files are the files of a model's folder. What is Git LFS's pointer to a file, and
// not the file, is an error that says so.
func Files(dir string) fs.FS { return files{os.DirFS(dir), dir} }

type files struct {
	fs.FS
	dir string
}

// longestPointer is above the size of all pointers, in bytes: the specification of
// Git LFS says so.
const longestPointer = 1024

// Open implements fs.FS.
func (f files) Open(name string) (fs.File, error) {
	// To open a pipe would wait for somebody to write to it.
	if info, err := fs.Stat(f.FS, name); err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s in %s is no regular file (%v)", name, f.dir, info.Mode().Type())
	}
	file, err := f.FS.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() >= longestPointer {
		return file, nil
	}
	start, err := io.ReadAll(io.LimitReader(file, longestPointer))
	_ = file.Close()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if checkpoint.IsPointer(start) {
		return nil, fmt.Errorf("%s: this is a Git LFS pointer, the file has not been downloaded: run \"git lfs pull\" in %s", name, f.dir)
	}
	return f.FS.Open(name)
}
