package certs

import (
	"fmt"
	"io/fs"
	"os"
)

// Private checks that a file that holds a private key is closed to all but its
// owner. Of a file of root's, the group of a process that is not root's may read
// it: so a system shares a key with a service, and Kubernetes with a pod.
func Private(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	return private(name, info)
}

func private(name string, info fs.FileInfo) error {
	open, mode := othersMay(info), info.Mode().Perm()
	if open == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w as a private key: others than its owner may use it (mode %04o): run chmod %04o %s", name,
		ErrUnusable, mode, mode&^open, quoted(name))
}

// others are the permissions of the group and of everybody.
const others = fs.FileMode(0o077)
