package m2n

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// retransmitsOf is how many TCP segments the kernel has sent again on a socket;
// false where it is none of TCP.
func retransmitsOf(fd int) (uint64, bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return uint64(info.Total_retrans), true
}

// retransmitsOn is retransmitsOf for a connection, secured or not.
func retransmitsOn(conn net.Conn) (n uint64, ok bool) {
	if secured, is := conn.(interface{ NetConn() net.Conn }); is {
		conn = secured.NetConn()
	}
	socket, is := conn.(syscall.Conn)
	if !is {
		return 0, false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) { n, ok = retransmitsOf(int(fd)) })
	return n, ok && err == nil
}

func (s *socketConn) retransmits() (uint64, bool) {
	s.reading.Lock() // leave closes the descriptor after it has had this
	defer s.reading.Unlock()
	if s.readEnded {
		return 0, false
	}
	return retransmitsOf(s.fd)
}
