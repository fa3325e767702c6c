//go:build !unix

package certs

import "io/fs"

// othersMay finds nothing where permissions are not those of Unix.
func othersMay(fs.FileInfo) fs.FileMode { return 0 }
