package m2n

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What follows are system calls that do not block, of which Go's scheduler is not
// told. Its monitor wakes where it is told of one after a while of idleness, and then
// looks every 20 µs for a millisecond whether that has blocked. They are for this
// process's own descriptors: one that a peer shares it could make block, and with it
// all of the process.

// writev writes the pieces, as many bytes as the kernel takes.
func writev(fd int, pieces [][]byte) (int, error) { return vectored(unix.SYS_WRITEV, fd, pieces) }

// readv fills the pieces, as far as there is something; 0 is the end.
func readv(fd int, pieces [][]byte) (int, error) { return vectored(unix.SYS_READV, fd, pieces) }

func vectored(trap uintptr, fd int, pieces [][]byte) (int, error) {
	var few [8]unix.Iovec
	list := few[:0]
	for _, p := range pieces {
		if len(p) > 0 {
			v := unix.Iovec{Base: unsafe.SliceData(p)}
			v.SetLen(len(p))
			list = append(list, v)
		}
	}
	n, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(list))), uintptr(len(list)))
	runtime.KeepAlive(pieces)
	return count(n, errno)
}

// epollLook returns the events that are there.
func epollLook(epoll int, events []unix.EpollEvent) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), 0, 0, 0)
	return count(n, errno)
}

func count(n uintptr, errno syscall.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
