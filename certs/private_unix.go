//go:build unix

package certs

import (
	"io/fs"
	"os"
	"syscall"
)

// othersMay are the permissions of a key's file that nobody should have.
func othersMay(info fs.FileInfo) fs.FileMode {
	open := info.Mode().Perm() & others
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid == 0 && os.Geteuid() != 0 {
		open &^= 0o040
	}
	return open
}
