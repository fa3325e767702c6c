package m2n

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Endpoint is one member of the mesh. Its methods may be called from any
// goroutine, but Poll and TryPoll by one at a time.
type Endpoint struct {
	cfg          Config
	ctx          context.Context // ends with Close
	cancel       context.CancelFunc
	tasks        taskGroup
	completions  *completionQueue
	engine       atomic.Pointer[engine] // made with the first connection
	tokens       atomic.Uint64
	pendingLinks pendingLinks

	mu           sync.RWMutex
	closing      bool
	pairs        map[string]*pair
	counts       map[string]*counters
	peersChanged broadcast      // rung when a peer is named
	inprocNames  []string       // names in the network
	listeners    []net.Listener // that accept
	watchdogWake chan struct{}  // made with the first link that needs the watchdog

	allocMu sync.Mutex // Config.Alloc is called by one goroutine at a time
}

// NewEndpoint makes an endpoint that knows no peers and listens nowhere.
func NewEndpoint(cfg Config) (*Endpoint, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	e := &Endpoint{cfg: cfg, completions: newCompletionQueue(), pairs: make(map[string]*pair), counts: make(map[string]*counters)}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e, nil
}

// Register makes memory known to the endpoint, so that messages can point into
// it. user is the owner's handle of it.
func (e *Endpoint) Register(mem []byte, user any) *Region {
	r := &Region{Bytes: mem, User: user}
	if e.cfg.Fabric != nil {
		_ = e.cfg.Fabric.Register(r) // it can be sent all the same, at the price of registering it each time
	}
	return r
}

// Listen accepts peers at an address and returns the address as bound:
//
//	inproc:NAME         in Config.Network, for endpoints of the same process
//	tcp:HOST:PORT       port 0 takes a free one
//	shm+tcp:HOST:PORT   the same, for peers that are to prefer shared memory
//	ucx+tcp:HOST:PORT   the same, for peers that are to prefer the fabric
//
// An endpoint may listen at several. Where it listens by TCP, peers of its host
// and user can share memory with it: which they do is said by the address that
// they are told.
func (e *Endpoint) Listen(ctx context.Context, addr string) (string, error) {
	transports, rest, err := splitAddr(addr)
	if err != nil {
		return "", err
	}
	if err := e.checkOpen(); err != nil {
		return "", err
	}
	if transports[0] == "inproc" {
		return addr, e.bindInproc(rest)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", rest)
	if err != nil {
		return "", fmt.Errorf("m2n: listening at %s: %w", addr, err)
	}
	return strings.Join(transports, "+") + ":" + l.Addr().String(), e.Serve(l)
}

func (e *Endpoint) checkOpen() error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closing {
		return ErrClosed
	}
	return nil
}

// SetPeer says who a peer is: the address at which it listens ("" where it only
// dials) and its epoch. Naming it again is free. A higher epoch is a new
// incarnation: the older pair is closed and its frames are dropped; a lower one
// is old news and ignored. Errors: an address of no known form, the endpoint's
// own id, a closed endpoint.
func (e *Endpoint) SetPeer(id, addr string, epoch uint64) error {
	if id == e.cfg.ID || id == "" || len(id) > maxID {
		return fmt.Errorf("m2n: the peer %q of endpoint %q: want another id of 1 to %d bytes", id, e.cfg.ID, maxID)
	}
	if addr != "" {
		if _, _, err := splitAddr(addr); err != nil {
			return fmt.Errorf("peer %q: %w", id, err)
		}
	}
	old, err := e.recordPeer(id, addr, epoch)
	if old != nil {
		old.discard(fmt.Errorf("%w (%d, was %d)", ErrReplaced, epoch, old.epoch))
	}
	return err
}

// name records the peer and returns the pair that it replaces.
func (e *Endpoint) recordPeer(id, addr string, epoch uint64) (*pair, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return nil, ErrClosed
	}
	old := e.pairs[id]
	if old != nil && epoch <= old.epoch {
		old.setAddr(addr, epoch)
		return nil, nil
	}
	c := e.counts[id]
	if c == nil {
		c = new(counters)
		e.counts[id] = c
	}
	e.pairs[id] = newPair(e, id, addr, epoch, c)
	e.peersChanged.notify()
	return old, nil
}

// RemovePeer forgets a peer, its pair and its counters.
func (e *Endpoint) RemovePeer(id string) {
	e.mu.Lock()
	p := e.pairs[id]
	delete(e.pairs, id)
	delete(e.counts, id)
	e.mu.Unlock()
	if p != nil {
		p.discard(ErrRemoved)
	}
}

// Stats returns what is known of each peer, by id.
func (e *Endpoint) Stats() []PeerStats {
	var all []PeerStats
	for _, p := range e.allPairs() {
		all = append(all, p.stats())
	}
	slices.SortFunc(all, func(a, b PeerStats) int { return strings.Compare(a.Peer, b.Peer) })
	return all
}

func (e *Endpoint) allPairs() []*pair {
	e.mu.RLock()
	defer e.mu.RUnlock()
	all := make([]*pair, 0, len(e.pairs))
	for _, p := range e.pairs {
		all = append(all, p)
	}
	return all
}

// Close ends the endpoint in order: posts are refused, what was posted gets
// PeerTimeout (or until ctx ends, where that is sooner) to be sent, then the
// peers are told and report Lost with ErrClosed. Messages that were received and
// not polled are dropped. The error tells what was not sent, or, in process, is
// still being read by a peer.
func (e *Endpoint) Close(ctx context.Context) error {
	if !e.beginClose() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.PeerTimeout)
	defer cancel()
	var errs []error
	for _, p := range e.allPairs() {
		errs = append(errs, p.drain(ctx))
	}
	for _, p := range e.allPairs() {
		p.fail(ErrClosed)
	}
	e.cancel()
	left := e.waitForTasks()
	errs = append(errs, left)
	for _, c := range e.completions.close() {
		c.held.drop()
	}
	if g := e.engine.Load(); g != nil && left == nil { // else somebody may still use it
		g.stop()
	}
	return errors.Join(errs...)
}

// spawn runs f on a goroutine that Close waits for. After Close it does nothing:
// whatever f would do, the pairs are down.
func (e *Endpoint) spawn(f func()) { e.tasks.spawn(f) }

func (e *Endpoint) beginClose() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return false
	}
	e.closing = true
	for _, name := range e.inprocNames {
		e.cfg.Network.unbind(name, e)
	}
	for _, l := range e.listeners {
		l.Close()
	}
	e.peersChanged.notify()
	return true
}
