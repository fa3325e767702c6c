package poll

import (
	"net"

	"golang.org/x/sys/unix"
)

// retransmitsOf is how many TCP segments the kernel has sent again on a socket; false
// where the socket is not TCP's.
func retransmitsOf(fd int) (uint64, bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return uint64(info.Total_retrans), true
}

// Retransmits is how many TCP segments the kernel has sent again on a connection,
// secured by TLS or not; false where it does not tell.
func Retransmits(conn net.Conn) (n uint64, ok bool) {
	err := control(conn, func(fd int) error { n, ok = retransmitsOf(fd); return nil })
	return n, ok && err == nil
}
