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

// Endpoint is one member of the mesh. Its methods may be called from any goroutine,
// Poll and TryPoll from one at a time.
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
	peersChanged broadcast      // sent when SetPeer names a peer
	inprocNames  []string       // by which Config.Network finds the endpoint
	listeners    []net.Listener // that accept peers
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

// Register makes memory known to the endpoint, so that the spans of messages can be in
// that memory. user is the owner's own handle of the memory, in Region.User.
func (e *Endpoint) Register(mem []byte, user any) *Region {
	r := &Region{Bytes: mem, User: user}
	if e.cfg.Fabric != nil {
		_ = e.cfg.Fabric.Register(r) // on an error the fabric registers the memory with each message
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
// An endpoint may listen at several addresses. Where it listens by TCP, peers of its
// host and user can share memory with it as well. The address that SetPeer gives a peer
// decides which of the two that peer uses.
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

// SetPeer names a peer: its id, the address at which the peer listens ("" where it only
// dials), and its epoch. To name a peer again with the same epoch changes nothing but
// the address, and that before the first dial only. With a higher epoch the peer is a
// new incarnation: the older pair is closed and frames of it are dropped. A lower epoch
// is ignored. Errors: an address of no known form, the endpoint's own id, a closed
// endpoint.
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

// recordPeer makes the pair of a peer, and returns the older pair that it replaces.
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

// Stats returns the counters and the state of each peer, sorted by id.
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

// Close ends the endpoint in order: new posts are refused; posted messages have
// PeerTimeout to be sent, or until ctx ends where that is sooner; then a goodbye goes to
// the peers, which report Lost with ErrClosed. Messages that were received and not polled
// are dropped. The error names the messages that were not sent or that, in process, a
// peer still reads.
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
	if g := e.engine.Load(); g != nil && left == nil { // else a task may still use it
		g.stop()
	}
	return errors.Join(errs...)
}

// spawn runs f on a goroutine that Close waits for. After Close it does not run f: all
// pairs are down then.
func (e *Endpoint) spawn(f func()) { e.tasks.spawn(f) }

// beginClose returns false where the endpoint is closed already.
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
