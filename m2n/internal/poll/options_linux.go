package poll

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// control calls set with the descriptor of a TCP connection, below TLS where it is
// secured. For other connections it does nothing.
func control(conn net.Conn, set func(fd int) error) error {
	if secured, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = secured.NetConn()
	}
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	outer := raw.Control(func(fd uintptr) { err = set(int(fd)) })
	return errors.Join(outer, err)
}

// interactive is TC_PRIO_INTERACTIVE, the highest priority that needs no rights.
const interactive = 6

// Prioritize has queues on the way that know priorities send the packets of a TCP
// connection first. Where the kernel refuses that, they queue like all others.
func Prioritize(conn net.Conn) {
	_ = control(conn, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, interactive) })
}

// SetCongestion sets the algorithm of congestion control of a TCP connection, by the
// kernel's name for it.
func SetCongestion(conn net.Conn, algorithm string) error {
	return control(conn, func(fd int) error { return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, algorithm) })
}

// SetPace bounds what a TCP connection sends, in bytes a second.
func SetPace(conn net.Conn, rate int) error {
	return control(conn, func(fd int) error {
		return unix.SetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, uint64(rate))
	})
}
