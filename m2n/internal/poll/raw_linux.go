package poll

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The functions below make system calls that do not block, and do not tell Go's
// scheduler of them. The scheduler's monitor thread would wake where it is told of one
// after some idleness, and then check every 20 µs for a millisecond whether the call
// has blocked. They are for descriptors of this process alone: a peer that shares a
// descriptor could make it block, and with it the whole process.

// writev writes the pieces in order, as many bytes as the kernel takes.
func writev(fd int, pieces [][]byte) (int, error) { return vectored(unix.SYS_WRITEV, fd, pieces) }

// readv fills the pieces in order with the bytes that are there. It returns 0 at the
// end of the stream.
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

// epollNow returns the events that are there, without waiting.
func epollNow(epoll int, events []unix.EpollEvent) (int, error) {
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
