package certs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// file is one that is to be written.
type file struct {
	name string
	text []byte
	mode fs.FileMode
}

// Folders in which files that belong together wait for their names, below the
// folder that they are for.
const (
	// making: they are being written, and nothing has its name yet.
	making = ".making"
	// placing: all are written, and some may have their names. Where it is found, a
	// process ended in between: what has a name is half of a whole that nobody has
	// used, so that it may be made again.
	placing = ".placing"
)

// writeAll writes files that belong together into a folder, which it makes if need
// be: all of them, or none. Files that are there are kept, with an error, unless
// replace is set or they are what an interrupted writeAll left.
func writeAll(dir string, replace bool, files []file) (err error) {
	made, err := makeFolder(dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && made != "" {
			_ = os.Remove(dir) // it fails where something is in it
		}
	}()
	interrupted := isFolder(filepath.Join(dir, placing))
	if !replace && !interrupted {
		if err := noneOf(dir, files); err != nil {
			return err
		}
	}
	return place(dir, interrupted, replace, files)
}

// makeFolder makes a folder and those above it, readable to their owner alone. It
// returns its name where it was not there.
func makeFolder(dir string) (made string, err error) {
	if !isFolder(dir) {
		made = dir
	}
	return made, os.MkdirAll(dir, 0o700)
}

func isFolder(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// noneOf checks that no file is there.
func noneOf(dir string, files []file) error {
	for _, f := range files {
		name := filepath.Join(dir, f.name)
		if _, err := os.Lstat(name); err == nil {
			return fmt.Errorf("%s: %w, and is kept", name, ErrExists)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// place writes all files aside, and then gives each its name. A reader sees an old
// file or a new one, whole. Where it fails, it takes back what it made.
func place(dir string, interrupted, replace bool, files []file) (err error) {
	aside := filepath.Join(dir, making)
	ready := filepath.Join(dir, placing)
	if interrupted {
		aside = ready
	}
	defer func() {
		err = errors.Join(err, os.RemoveAll(aside), os.RemoveAll(filepath.Join(dir, making)))
	}()
	if err := writeAside(aside, files); err != nil {
		return err
	}
	if !interrupted {
		if err := os.Rename(aside, ready); err != nil {
			return err
		}
		aside = ready
	}
	if err := syncFolder(dir); err != nil {
		return err
	}
	for i, f := range files {
		if err := os.Rename(filepath.Join(ready, strconv.Itoa(i)), filepath.Join(dir, f.name)); err != nil {
			if !replace {
				removeAll(dir, files[:i])
			}
			return err
		}
	}
	return syncFolder(dir)
}

// writeAside writes files to the disk, by their numbers, into a folder that is
// emptied for them.
func writeAside(dir string, files []file) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	old, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	for i, f := range files {
		if err := f.write(filepath.Join(dir, strconv.Itoa(i))); err != nil {
			return err
		}
	}
	return syncFolder(dir)
}

// write writes a file that is not there. A key is never readable to others.
func (f file) write(name string) error {
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(f.text)
	if err = errors.Join(err, out.Chmod(f.mode), out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("writing %s as %s: %w", f.name, name, err)
	}
	return nil
}

// syncFolder waits until the names in a folder are on the disk.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func removeAll(dir string, files []file) {
	for _, f := range files {
		_ = os.Remove(filepath.Join(dir, f.name)) // the first error is told
	}
}
