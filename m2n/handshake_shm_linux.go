package m2n

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// hostClock reads the clock that Go's monotonic times are of.
func hostClock() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(fmt.Sprintf("m2n: this system has no monotonic clock: %v", err))
	}
	return t.Nano()
}

// memory is a piece of memory that processes share, by its descriptor.
type memory struct {
	fd   int
	mem  []byte
	once sync.Once
}

// seals keep a peer from taking memory away under this end's feet.
const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

func newMemory(bytes int) (*memory, error) {
	fd, err := unix.MemfdCreate("m2n", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making shared memory: %w", err)
	}
	err = unix.Ftruncate(fd, int64(bytes))
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making shared memory of %d bytes: %w", bytes, err), unix.Close(fd))
	}
	return mapMemory(fd, bytes)
}

// theirMemory maps a peer's, and owns the descriptor from here on.
func theirMemory(fd, bytes int) (*memory, error) {
	var s unix.Stat_t
	has, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err == nil {
		err = unix.Fstat(fd, &s)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("%w: the peer's memory: %w", ErrBadFrame, err)
	case has&unix.F_SEAL_SHRINK == 0:
		err = fmt.Errorf("%w: the peer's memory is not sealed", ErrBadFrame)
	case s.Size != int64(bytes):
		err = fmt.Errorf("%w: the peer's memory has %d bytes, announced %d", ErrBadFrame, s.Size, bytes)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return mapMemory(fd, bytes)
}

func mapMemory(fd, bytes int) (*memory, error) {
	mem, err := unix.Mmap(fd, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mapping %d bytes of shared memory: %w", bytes, err), unix.Close(fd))
	}
	return &memory{fd: fd, mem: mem}, nil
}

func (m *memory) close() {
	m.once.Do(func() {
		_ = unix.Munmap(m.mem) // it is mapped
		_ = unix.Close(m.fd)
	})
}

// shmBoard is the endpoint's board, and the rings that are on it.
type shmBoard struct {
	memory *memory
	board  board

	mu    sync.Mutex
	rings [boardRings]*shmTransport
	taken [boardRings]bool
	words int // that are in use
}

func newBoard() (*shmBoard, error) {
	m, err := newMemory(roundUp(boardBytes, pageBytes))
	if err != nil {
		return nil, err
	}
	return &shmBoard{memory: m, board: board{m.mem}}, nil
}

func (b *shmBoard) close() { b.memory.close() }

// sleep says that the owner goes to sleep, and tells whether something has come
// before that.
func (b *shmBoard) sleep() bool {
	b.board.asleep().Store(1)
	for w := range b.inUse() {
		if b.board.word(w).Load() != 0 {
			return true
		}
	}
	return false
}

// inUse is how many words have bits of rings.
func (b *shmBoard) inUse() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.words
}

func (b *shmBoard) wakeUp() { b.board.asleep().Store(0) }

// used tells whether there are rings.
func (b *shmBoard) used() bool { return b.inUse() > 0 }

// reserve returns a number for a ring.
func (b *shmBoard) reserve() (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.taken[:], false)
	if i < 0 {
		return 0, fmt.Errorf("%d peers share memory with this endpoint, the limit", boardRings)
	}
	b.taken[i] = true
	b.words = max(b.words, i/64+1)
	return i, nil
}

func (b *shmBoard) put(i int, c *shmTransport) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rings[i] = c
	b.board.set(i) // what came before
}

func (b *shmBoard) free(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rings[i], b.taken[i] = nil, false
}

func (b *shmBoard) at(i int) *shmTransport {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rings[i]
}

// sweep reads the rings that have something, and returns how many.
func (b *shmBoard) sweep() int {
	n := 0
	for w := range b.inUse() {
		if b.board.word(w).Load() == 0 {
			continue
		}
		for set, i := b.board.word(w).Swap(0), 0; set != 0; set, i = set>>1, i+1 {
			if set&1 == 0 {
				continue
			}
			if c := b.at(64*w + i); c != nil {
				c.ready()
				n++
			}
		}
	}
	return n
}

// shmName is the abstract socket at which an endpoint that listens at a TCP
// address meets those of its host.
func shmName(addr string) *net.UnixAddr { return &net.UnixAddr{Name: "@m2n/" + addr, Net: "unix"} }

// serveHost accepts peers of this host beside a TCP listener. Where it cannot,
// they come by TCP.
func (e *Endpoint) serveSHM(l net.Listener) {
	if _, ok := l.(*net.TCPListener); !ok || !e.sharesMemory() {
		return
	}
	host, err := net.ListenUnix("unix", shmName(l.Addr().String()))
	if err != nil {
		return
	}
	e.listeners = append(e.listeners, host)
	e.spawn(func() { e.acceptLoop(host, e.handleSHM) })
}

// sharesMemory tells whether messages can be received in shared memory.
func (e *Endpoint) sharesMemory() bool { return e.cfg.Alloc == nil || e.cfg.Adopt != nil }

// hostConn is a connection of two processes of a host, which keeps the descriptors
// that come with the bytes.
type hostConn struct {
	*net.UnixConn
	fds  []int // the first maxFDs of them
	came int
}

// maxFDs are the descriptors of one end: its ring, its board, and what wakes it.
const maxFDs = 3

func (c *hostConn) Read(b []byte) (int, error) {
	var oob [256]byte
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob[:])
	if oobn > 0 {
		c.keepFDs(oob[:oobn])
	}
	return n, err
}

func (c *hostConn) keepFDs(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return // there are too few descriptors then
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			n := min(len(fds), maxFDs-len(c.fds))
			c.fds = append(c.fds, fds[:n]...)
			closeFDs(fds[n:])
			c.came += len(fds)
		}
	}
}

// take returns the descriptors that came; the caller owns them.
func (c *hostConn) take() ([]int, error) {
	fds := c.fds
	c.fds = nil
	if c.came == maxFDs {
		return fds, nil
	}
	closeFDs(fds)
	return nil, fmt.Errorf("%w: %d descriptors came with the greeting, want %d", ErrBadFrame, c.came, maxFDs)
}

func (c *hostConn) Close() error {
	closeFDs(c.fds)
	c.fds = nil
	return c.UnixConn.Close()
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // they are this process's alone
	}
}

// sameUser checks that the other end is run by this user: memory is not shared
// with others.
func sameUser(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	outer := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(outer, err); err != nil {
		return fmt.Errorf("asking who the peer is: %w", err)
	}
	if int(cred.Uid) != os.Geteuid() {
		return &refusal{Reason: fmt.Sprintf("the peer is run by user %d, this end by %d", cred.Uid, os.Geteuid())}
	}
	return nil
}

// shmParty is a pair that is about to share memory.
type shmParty struct {
	pair  *pair
	conn  *hostConn
	s     *handshakeConn
	eng   *engine
	mine  *memory // the ring of what this end receives
	ring  *ring
	index int // its number on the board

	theirs, theirBoard *memory
	theirRing          *ring
	theirWake          int
	peer               greeting
}

// newSHMParty makes this end's memory.
func newSHMParty(p *pair, conn *hostConn, s *handshakeConn) (*shmParty, error) {
	eng, err := p.ep.startEngine()
	if err != nil {
		return nil, err
	}
	layout, err := newRingLayout(p.ep.limits())
	if err != nil {
		return nil, err
	}
	m, err := newMemory(layout.total)
	if err != nil {
		return nil, err
	}
	h := &shmParty{pair: p, conn: conn, s: s, eng: eng, mine: m, ring: &ring{m.mem, layout}, theirWake: -1}
	if h.index, err = eng.doorbells.reserve(); err != nil {
		m.close()
		return nil, err
	}
	return h, nil
}

// greet sends a greeting with this end's descriptors.
func (h *shmParty) greet(kind wire.Kind, g greeting) error {
	g.Doorbell = h.index
	b, err := h.s.encode(kind, g)
	if err != nil {
		return err
	}
	rights := unix.UnixRights(h.mine.fd, h.eng.doorbells.memory.fd, h.eng.poller.bell)
	n, _, err := h.conn.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		err = fmt.Errorf("%d of %d bytes of the greeting went out", n, len(b))
	}
	return err
}

// meet maps the peer's memory, whose descriptors came with its greeting.
func (h *shmParty) meet(theirs greeting) error {
	h.peer = theirs
	fds, err := h.conn.take()
	if err != nil {
		return err
	}
	h.theirWake = fds[2]
	_ = unix.SetNonblock(h.theirWake, true) // where it is a bell it is so already; another must not hold up who posts
	layout, err := newRingLayout(theirs.limits())
	if err == nil && (theirs.Doorbell < 0 || theirs.Doorbell >= boardRings) {
		err = fmt.Errorf("%w: ring %d of %d", ErrBadFrame, theirs.Doorbell, boardRings)
	}
	if err != nil {
		closeFDs(fds[:2])
		return err
	}
	h.theirBoard, err = theirMemory(fds[1], roundUp(boardBytes, pageBytes))
	if err != nil {
		closeFDs(fds[:1])
		return err
	}
	if h.theirs, err = theirMemory(fds[0], layout.total); err != nil {
		return err
	}
	h.theirRing = &ring{h.theirs.mem, layout}
	return nil
}

// link makes the link. Its memory is the link's from here on, also where an error
// is returned.
func (h *shmParty) link() (*wireLink, error) {
	s := h.pair.ep.newWindow()
	region, err := h.pair.ep.adopt(h.ring.bodies())
	if err != nil {
		h.drop()
		return nil, err
	}
	s.region = region
	s.freeMemory = func() {
		if free := h.pair.ep.cfg.Free; free != nil && h.pair.ep.cfg.Adopt != nil {
			free(region)
		}
		h.mine.close()
	}
	h.s.conn = h.conn.UnixConn
	l, err := newWireLink(h.pair, viaSHM, s, []*handshakeConn{h.s}, h.peer)
	if err != nil {
		h.letGo()
		return nil, err
	}
	call := caller{board: board{h.theirBoard.mem}, ring: h.peer.Doorbell, wake: func() { wakeFD(h.theirWake) }}
	c := newSHMTransport(l, h.ring, h.theirRing, call, h.letGo)
	l.transport = c
	h.eng.doorbells.put(h.index, c)
	return l, nil
}

func (e *Endpoint) adopt(mem []byte) (*Region, error) {
	if e.cfg.Adopt == nil {
		return &Region{Bytes: mem}, nil
	}
	e.allocMu.Lock()
	defer e.allocMu.Unlock()
	return e.cfg.Adopt(mem)
}

func wakeFD(fd int) { _, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) } // the peer may be gone

// letGo lets go of the peer's memory, and of the number on the board.
func (h *shmParty) letGo() {
	h.eng.doorbells.free(h.index)
	for _, m := range []*memory{h.theirs, h.theirBoard} {
		if m != nil {
			m.close()
		}
	}
	if h.theirWake >= 0 {
		_ = unix.Close(h.theirWake) // nothing is to be saved
	}
}

// drop lets go of all memory.
func (h *shmParty) drop() {
	h.letGo()
	h.mine.close()
}

// meetHost shakes hands with a peer of this host that has connected.
func (e *Endpoint) handleSHM(conn net.Conn) {
	ctx, cancel := context.WithTimeout(e.ctx, e.cfg.DialTimeout*3/4)
	defer cancel()
	c := &hostConn{UnixConn: conn.(*net.UnixConn)}
	s := newHandshakeConn(ctx, e, c, nil)
	if err := e.acceptSHM(ctx, s, c); err != nil {
		s.refuse(err)
		c.Close()
	}
}

func (e *Endpoint) acceptSHM(ctx context.Context, s *handshakeConn, c *hostConn) error {
	if err := sameUser(c.UnixConn); err != nil {
		return err
	}
	theirs, err := s.readGreeting(wire.Hello)
	if err != nil {
		return err
	}
	p, err := e.pairFor(ctx, theirs.pairID)
	if err != nil {
		return err
	}
	if err := p.awaitAccept(ctx); err != nil {
		return err
	}
	defer p.acceptOver()
	return p.acceptSHM(c, s, theirs.pairID)
}

func (p *pair) acceptSHM(c *hostConn, s *handshakeConn, h pairID) error {
	party, err := newSHMParty(p, c, s)
	if err != nil {
		return err
	}
	mine := p.ep.greeting(h)
	if err := firstError(func() error { return party.greet(wire.Welcome, mine) }, func() error { return party.hearAndMeet(wire.Ready) }); err != nil {
		party.drop()
		return err
	}
	return party.raise(p.raiseAccepted, func() error { return s.sendControl(wire.Ready, mine) })
}

func (h *shmParty) hearAndMeet(kind wire.Kind) error {
	theirs, err := h.s.readGreeting(kind)
	if err != nil {
		return err
	}
	return h.meet(theirs)
}

// raise makes the pair up with the link, and says so.
func (h *shmParty) raise(raise func(*wireLink, limits) error, confirm func() error) error {
	if err := h.s.detach(); err != nil {
		h.drop()
		return err
	}
	l, err := h.link()
	if err != nil {
		return err
	}
	if err := raise(l, h.peer.limits()); err != nil {
		l.abandon()
		return err
	}
	if err := confirm(); err != nil {
		h.pair.fail(fmt.Errorf("handshake: %w", err))
	}
	l.start()
	return nil
}

// dialSHM meets a peer of this host through memory.
func (p *pair) dialSHM(ctx context.Context, addr string) error {
	if p.ep.cfg.Dial != nil {
		return &unavailableError{"Config.Dial says how peers are reached"}
	}
	if !p.ep.sharesMemory() {
		return &unavailableError{"its receive memory is a device's (Config.Adopt is nil)"}
	}
	conn, err := dialHost(ctx, addr)
	if err != nil {
		return err
	}
	c := &hostConn{UnixConn: conn}
	err = p.dialSHMOn(ctx, c)
	if err != nil {
		c.Close()
	}
	return err
}

func (p *pair) dialSHMOn(ctx context.Context, c *hostConn) error {
	if err := sameUser(c.UnixConn); err != nil {
		return &unavailableError{err.Error()}
	}
	s := newHandshakeConn(ctx, p.ep, c, nil)
	h := pairID{From: p.ep.cfg.ID, FromEpoch: p.ep.cfg.Epoch, To: p.id, ToEpoch: p.epoch}
	mine := p.ep.greeting(h)
	if err := s.sendControl(wire.Hello, mine); err != nil {
		return err
	}
	party, err := newSHMParty(p, c, s)
	if err != nil {
		return err
	}
	err = firstError(func() error { return party.hearAndMeet(wire.Welcome) }, func() error { return party.greet(wire.Ready, mine) },
		func() error { _, err := s.readGreeting(wire.Ready); return err })
	if err != nil {
		party.drop()
		return err
	}
	return party.raise(p.raiseDialled, func() error { return nil })
}

// dialHost connects to the abstract socket of an endpoint that listens at addr.
func dialHost(ctx context.Context, addr string) (*net.UnixConn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, &unavailableError{fmt.Sprintf("no address of %s: %v", host, err)}
	}
	if !slices.ContainsFunc(ips, isLocal) {
		return nil, &unavailableError{host + " is not this host"}
	}
	var names []string
	for _, ip := range ips {
		names = append(names, net.JoinHostPort(ip.String(), port))
	}
	names = append(names, net.JoinHostPort("::", port), net.JoinHostPort("0.0.0.0", port))
	for _, name := range names {
		c, err := net.DialUnix("unix", nil, shmName(name))
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, &unavailableError{err.Error()}
		}
	}
	return nil, &unavailableError{"nobody on this host shares memory at " + addr}
}

// isLocal tells whether an address is one of this host's, as this process sees it.
func isLocal(ip net.IPAddr) bool {
	if ip.IP.IsLoopback() {
		return true
	}
	all, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(all, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip.IP)
	})
}
