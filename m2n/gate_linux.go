package m2n

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

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
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(fd)}
	if err := unix.EpollCtl(g.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("watching descriptor %d: %w", fd, err)
	}
	g.sources[int32(fd)] = s
	return nil
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
	millis := -1
	if look {
		millis = 0
	}
	n, err := unix.EpollWait(g.epoll, g.events[:], millis)
	if err != nil {
		return nil // interrupted; whoever waits looks again
	}
	return g.events[:n]
}

// serve calls the sources that are ready, and returns how many.
func (g *gate) serve(events []unix.EpollEvent) int {
	ready := 0
	for _, event := range events {
		if s := g.source(event.Fd); s != nil {
			s.ready()
			ready++
		}
	}
	return ready
}

func (g *gate) source(fd int32) source {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sources[fd]
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

// pump is the goroutine that goes on with writes for which the kernel had no
// room. It waits by Go's poller: nobody waits for it but the peer's reader.
type pump struct {
	file *os.File // an epoll instance
	raw  syscall.RawConn

	mu    sync.Mutex
	lanes map[int32]*lane
}

func newPump() (*pump, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making an epoll instance: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("setting up an epoll instance: %w", err), unix.Close(fd))
	}
	p := &pump{file: os.NewFile(uintptr(fd), "epoll"), lanes: make(map[int32]*lane)}
	p.raw, err = p.file.SyscallConn()
	return p, err
}

// await has l.carryOn called once its socket takes more.
func (p *pump) await(fd int, l *lane) error {
	p.mu.Lock()
	p.lanes[int32(fd)] = l
	p.mu.Unlock()
	event := unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLONESHOT, Fd: int32(fd)}
	return p.control(func(epoll int) error {
		err := unix.EpollCtl(epoll, unix.EPOLL_CTL_MOD, fd, &event)
		if errors.Is(err, unix.ENOENT) {
			err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &event)
		}
		return err
	})
}

// forget is called before a socket that may have been awaited is closed.
func (p *pump) forget(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lanes[int32(fd)] != nil {
		delete(p.lanes, int32(fd))
		_ = p.control(func(epoll int) error { return unix.EpollCtl(epoll, unix.EPOLL_CTL_DEL, fd, nil) }) // it is there, or closed
	}
}

func (p *pump) control(do func(epoll int) error) (err error) {
	if outer := p.raw.Control(func(fd uintptr) { err = do(int(fd)) }); outer != nil {
		return outer
	}
	return err
}

// run works until close.
func (p *pump) run() {
	var events [64]unix.EpollEvent
	for {
		n := 0
		err := p.raw.Read(func(fd uintptr) bool {
			n, _ = unix.EpollWait(int(fd), events[:], 0) // an interruption shows as none
			return n > 0
		})
		if err != nil {
			return
		}
		for _, event := range events[:n] {
			p.mu.Lock()
			l := p.lanes[event.Fd]
			p.mu.Unlock()
			if l != nil {
				l.resume()
			}
		}
	}
}

func (p *pump) close() { _ = p.file.Close() } // run ends
