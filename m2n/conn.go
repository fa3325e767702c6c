package m2n

import (
	"fmt"
	"net"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/poll"
)

// connection is the input and output of a lane: a [socketConn], which the progress
// engine drives, or a [streamConn], which has goroutines.
type connection interface {
	// start begins to read: lane.bytesRead is called with what comes, until
	// closeGracefully.
	start() error
	// readPending is called by the watchdog from time to time. It reads bytes that
	// are too few to wake the reader.
	readPending()
	// nonBlocking reports whether write may be called on any goroutine, as it never
	// blocks.
	nonBlocking() bool
	// write writes some of the pieces: 0 bytes where the kernel has no room now.
	write(pieces [][]byte) (int, error)
	// resumeLater has lane.resume called elsewhere, once write can go on.
	resumeLater() error
	// unsent is how many bytes the peer has not acknowledged, as far as is known.
	unsent() int
	// retransmits is how many TCP segments were sent again, false where the system
	// does not tell.
	retransmits() (uint64, bool)
	// shutdown makes reads and writes fail from now on.
	shutdown()
	// closeGracefully ends reading, sends the goodbye where there is one, lets the peer
	// read it, and closes; all of that until the deadline. Nobody writes meanwhile.
	closeGracefully(goodbye []byte, deadline time.Time)
}

// tune sets the options of the lane's socket. The lane of credits gets priority, so
// that credits pass by the bodies in queues on the way.
func (n *lane) tune(conn net.Conn) error {
	if !n.link.carriesMessages(n) {
		poll.Prioritize(conn)
		return nil
	}
	cfg := n.link.pair.ep.cfg
	if cfg.Congestion != "" {
		if err := poll.SetCongestion(conn, cfg.Congestion); err != nil {
			return fmt.Errorf("Config.Congestion %q: %w", cfg.Congestion, err)
		}
	}
	if cfg.Pace > 0 {
		if err := poll.SetPace(conn, cfg.Pace); err != nil {
			return fmt.Errorf("Config.Pace %d: %w", cfg.Pace, err)
		}
	}
	return nil
}
