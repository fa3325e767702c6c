package api

import (
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/tandem-moe/tandem/internal/ratelog"
)

// listener accepts connections into a table, and survives what goes wrong with one
// of them or for a while.
type listener struct {
	net.Listener
	table *connections
	log   *ratelog.Logger

	once   sync.Once
	closed chan struct{}
}

func newListener(l net.Listener, most int, log *ratelog.Logger) *listener {
	own := &listener{Listener: l, log: log, closed: make(chan struct{})}
	own.table = newConnections(most, func(c *connection) {
		log.Limited(slog.LevelWarn, "as many connections are open as may be: the idlest is closed for each new one",
			"limit", most, "client", c.RemoteAddr().String())
	})
	return own
}

// The waits after errors.
const (
	shortestPause = 5 * time.Millisecond
	longestPause  = time.Second
)

// Accept returns the next connection. Its errors are final.
func (l *listener) Accept() (net.Conn, error) {
	pause := shortestPause
	for {
		conn, err := l.Listener.Accept()
		switch {
		case err == nil:
			if c := l.table.add(conn); c != nil {
				return c, nil
			}
			_ = conn.Close() // all others are at work
		case !passing(err):
			return nil, err
		default:
			l.recover(err)
			l.sleep(pause)
			pause = min(2*pause, longestPause)
		}
	}
}

// recover tells of an error, and makes room where the process has too many open
// files: who has connected before then waits in the kernel's queue no longer than
// that takes.
func (l *listener) recover(err error) {
	l.log.Limited(slog.LevelWarn, "a connection could not be accepted; the server goes on", "error", err)
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		l.table.shed()
	}
}

func (l *listener) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.closed:
	}
}

// Close ends Accept, too.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// passing says that accepting may succeed later.
func passing(err error) bool {
	for _, e := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, syscall.EINTR, syscall.EAGAIN,
		syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ETIMEDOUT,
		syscall.EPERM,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
