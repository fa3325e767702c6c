package m2n

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// creditPriority is TC_PRIO_INTERACTIVE, the highest that needs no rights.
const creditPriority = 6

// tune sets the socket options of a TCP connection. Queues on the way that know
// priorities let credits pass.
func (n *lane) tune() error {
	conn := n.netConn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // of TLS
		conn = t.NetConn()
	}
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	set := n.forBodies
	if !n.link.carriesMessages(n) {
		set = forCredits
	}
	outer := raw.Control(func(fd uintptr) { err = set(int(fd)) })
	return errors.Join(outer, err)
}

func forCredits(fd int) error {
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, creditPriority) // else they queue like all
	return nil
}

func (n *lane) forBodies(fd int) error {
	cfg := n.link.pair.ep.cfg
	if cfg.Congestion != "" {
		if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, cfg.Congestion); err != nil {
			return fmt.Errorf("Config.Congestion %q: %w", cfg.Congestion, err)
		}
	}
	if cfg.Pace > 0 {
		if err := unix.SetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, uint64(cfg.Pace)); err != nil {
			return fmt.Errorf("Config.Pace %d: %w", cfg.Pace, err)
		}
	}
	return nil
}
