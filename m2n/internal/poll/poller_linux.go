package poll

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Poller is an epoll instance with the descriptors of its sources, and an eventfd by
// which any goroutine, or another process, ends the driver's wait.
//
// The driver is a thread in epoll_wait, not a goroutine behind Go's own poller: a round
// trip between two processes takes 5 µs so, and 60 µs the other way.
type Poller struct {
	epoll   int
	eventfd int // edge-triggered, so that nobody has to read it

	mu      sync.Mutex
	sources map[int32]Source
	closed  bool

	events [64]Event // the driver's
}

// Event is what Wait returns, for Serve.
type Event = unix.EpollEvent

// New makes a poller that watches nothing.
func New() (*Poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making an epoll instance: %w", err)
	}
	eventfd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making an eventfd: %w", err), unix.Close(epoll))
	}
	p := &Poller{epoll: epoll, eventfd: eventfd, sources: make(map[int32]Source)}
	ev := Event{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(eventfd)}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, eventfd, &ev); err != nil {
		p.Close()
		return nil, fmt.Errorf("watching an eventfd: %w", err)
	}
	return p, nil
}

// Add has s.Readable called by the driver whenever fd is readable, until Remove.
func (p *Poller) Add(fd int, s Source) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if err := p.control(unix.EPOLL_CTL_ADD, fd, forReading); err != nil {
		return err
	}
	p.sources[int32(fd)] = s
	return nil
}

// What a descriptor is watched for.
const (
	forReading = unix.EPOLLIN | unix.EPOLLRDHUP
	forWriting = forReading | unix.EPOLLOUT
)

func (p *Poller) control(op, fd int, events uint32) error {
	if err := unix.EpollCtl(p.epoll, op, fd, &Event{Events: events, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("watching descriptor %d: %w", fd, err)
	}
	return nil
}

// WantWrite has the Writable of fd's source called, once, when fd can be written.
func (p *Poller) WantWrite(fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sources[int32(fd)] == nil {
		return ErrClosed
	}
	return p.control(unix.EPOLL_CTL_MOD, fd, forWriting)
}

// Remove ends the watching of fd. The driver may still be about to call its source.
func (p *Poller) Remove(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sources[int32(fd)] != nil {
		delete(p.sources, int32(fd))
		_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, fd, nil) // an error means that fd is closed
	}
}

// Wait returns the events of sources that are ready, for Serve. Where block is set it
// waits until there are some, or until Wake. It returns none where a signal has
// interrupted it.
func (p *Poller) Wait(block bool) []Event {
	var n int
	var err error
	if block {
		n, err = unix.EpollWait(p.epoll, p.events[:], -1)
	} else {
		n, err = epollNow(p.epoll, p.events[:])
	}
	if err != nil {
		return nil
	}
	return p.events[:n]
}

// Serve calls the sources of these events, and returns how many there were.
func (p *Poller) Serve(events []Event) int {
	ready := 0
	for _, event := range events {
		s := p.sourceOf(event)
		if s == nil {
			continue
		}
		ready++
		if w, ok := s.(WriteSource); ok && event.Events&unix.EPOLLOUT != 0 {
			w.Writable()
		}
		if event.Events&^unix.EPOLLOUT != 0 {
			s.Readable()
		}
	}
	return ready
}

// sourceOf returns the source of an event. After one that says that it can write, it
// is watched for reading only.
func (p *Poller) sourceOf(event Event) Source {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sources[event.Fd]
	if s != nil && event.Events&unix.EPOLLOUT != 0 {
		_ = p.control(unix.EPOLL_CTL_MOD, int(event.Fd), forReading) // on an error Writable is called once more
	}
	return s
}

// Wake ends the present blocking Wait, or the next one.
func (p *Poller) Wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		_, _ = unix.Write(p.eventfd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails after 2^64 wakes
	}
}

// WakeFD is the eventfd that Wake writes to, for passing it to another process. The
// poller keeps it.
func (p *Poller) WakeFD() int { return p.eventfd }

// Close is called once nobody waits any more.
func (p *Poller) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		_ = unix.Close(p.eventfd) // nothing was written that could be lost
		_ = unix.Close(p.epoll)
	}
}
