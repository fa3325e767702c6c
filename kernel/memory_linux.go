package kernel

import "golang.org/x/sys/unix"

// adviseHuge asks for huge pages; where the system has none, small ones work.
func adviseHuge(b []byte) { _ = unix.Madvise(b, unix.MADV_HUGEPAGE) }
