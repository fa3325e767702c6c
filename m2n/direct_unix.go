//go:build linux || darwin

package m2n

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// directWriter writes to a socket what the kernel takes without blocking, so
// that a short message needs no hand-off to a goroutine that may wait for a core.
type directWriter struct {
	raw    syscall.RawConn
	try    func(fd uintptr) bool
	pieces [][]byte
	n      int
	err    error
}

func newDirectWriter(conn net.Conn) *directWriter {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	w := &directWriter{raw: raw}
	w.try = func(fd uintptr) bool {
		w.n, w.err = unix.Writev(int(fd), w.pieces)
		return true // whatever came of it: never wait
	}
	return w
}

// write returns how many bytes the kernel took; 0 where it takes none now.
func (w *directWriter) write(pieces [][]byte) (int, error) {
	w.pieces, w.n, w.err = pieces, 0, nil
	if err := w.raw.Write(w.try); err != nil {
		return 0, err
	}
	w.pieces = nil
	if errors.Is(w.err, unix.EAGAIN) || errors.Is(w.err, unix.EINTR) {
		return 0, nil
	}
	return max(w.n, 0), w.err
}
