package m2n

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// gate is where an endpoint meets the kernel: an epoll instance with the
// descriptors of its links, and a bell. The consumer itself waits in it, a thread
// in epoll_wait: between two processes that takes 5 µs a round trip, where a
// goroutine that waits for Go's poller takes 60.
type gate struct {
	epoll int
	bell  int // an eventfd, edge-triggered: never read

	mu      sync.Mutex
	sources map[int32]source
	closed  bool

	events [64]unix.EpollEvent // the driver's own
}

func newGate() (*gate, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making an epoll instance: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making an eventfd: %w", err), unix.Close(epoll))
	}
	g := &gate{epoll: epoll, bell: bell, sources: make(map[int32]source)}
	ring := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(bell)}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, bell, &ring); err != nil {
		g.close()
		return nil, fmt.Errorf("watching an eventfd: %w", err)
	}
	return g, nil
}

// add has s.ready called by the driver whenever there is something to read.
func (g *gate) add(fd int, s source) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ErrClosed
	}
	if err := g.control(unix.EPOLL_CTL_ADD, fd, forReading); err != nil {
		return err
	}
	g.sources[int32(fd)] = s
	return nil
}

// What a descriptor is watched for.
const (
	forReading = unix.EPOLLIN | unix.EPOLLRDHUP
	forWriting = forReading | unix.EPOLLOUT
)

func (g *gate) control(op, fd int, events uint32) error {
	if err := unix.EpollCtl(g.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("watching descriptor %d: %w", fd, err)
	}
	return nil
}

// await has the source's writable called, once, when the descriptor takes more.
func (g *gate) await(fd int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sources[int32(fd)] == nil {
		return ErrClosed
	}
	return g.control(unix.EPOLL_CTL_MOD, fd, forWriting)
}

// remove ends that. The driver may still be about to call ready.
func (g *gate) remove(fd int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sources[int32(fd)] != nil {
		delete(g.sources, int32(fd))
		_ = unix.EpollCtl(g.epoll, unix.EPOLL_CTL_DEL, fd, nil) // it is there, or closed
	}
}

// wait waits for a source, or for the bell; or only looks. It returns what to
// serve.
func (g *gate) wait(look bool) []unix.EpollEvent {
	var n int
	var err error
	if look {
		n, err = epollLook(g.epoll, g.events[:])
	} else {
		n, err = unix.EpollWait(g.epoll, g.events[:], -1)
	}
	if err != nil {
		return nil // interrupted; whoever waits looks again
	}
	return g.events[:n]
}

// serve calls the sources that are ready, and returns how many.
func (g *gate) serve(events []unix.EpollEvent) int {
	ready := 0
	for _, event := range events {
		s := g.take(event)
		if s == nil {
			continue
		}
		ready++
		if w, ok := s.(writer); ok && event.Events&unix.EPOLLOUT != 0 {
			w.writable()
		}
		if event.Events&^unix.EPOLLOUT != 0 {
			s.ready()
		}
	}
	return ready
}

// take returns the source of an event, and asks for its writability no longer.
func (g *gate) take(event unix.EpollEvent) source {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sources[event.Fd]
	if s != nil && event.Events&unix.EPOLLOUT != 0 {
		_ = g.control(unix.EPOLL_CTL_MOD, int(event.Fd), forReading) // else it is asked again
	}
	return s
}

// ring ends the present wait, or the next one.
func (g *gate) ring() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		_, _ = unix.Write(g.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails after 2^64 rings
	}
}

// close is called once nobody waits any more.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.closed = true
		_ = unix.Close(g.bell) // nothing was written to it that could be lost
		_ = unix.Close(g.epoll)
	}
}
