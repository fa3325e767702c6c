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
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
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

// complete fills in the defaults and refuses what cannot work.
func (c Config) complete() (Config, error) {
	if err := checkID(c.ID); err != nil {
		return c, err
	}
	setDefault(&c.SlotBytes, 1<<20)
	setDefault(&c.Slots, 8)
	setDefault(&c.HeaderBytes, 64<<10)
	setDefault(&c.Queue, 4*c.Slots+64)
	setDefault(&c.Connections, 2)
	setDefault(&c.PeerTimeout, 2*time.Second)
	setDefault(&c.DialTimeout, 2*time.Second)
	setDefault(&c.ReadyTimeout, time.Minute)
	return c, errors.Join(c.check(), checkFabric(c.Fabric))
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// maxID bounds an id: two of them fit into a greeting, whatever they are.
const maxID = 255

func checkID(id string) error {
	if id == "" || len(id) > maxID {
		return fmt.Errorf("m2n: Config.ID has %d bytes, want 1 to %d", len(id), maxID)
	}
	return nil
}

// maxBytes bounds SlotBytes and HeaderBytes: lengths on the wire have 32 bits.
const maxBytes = 1 << 31

func (c Config) check() error {
	for _, f := range []struct {
		name     string
		v, limit int
	}{
		{"SlotBytes", c.SlotBytes, maxBytes - 1}, {"Slots", c.Slots, 1 << 16},
		{"HeaderBytes", c.HeaderBytes, maxBytes - 1}, {"Queue", c.Queue, 1 << 24}, {"Connections", c.Connections, maxLanes},
		{"PeerTimeout", int(c.PeerTimeout), int(time.Hour)}, {"DialTimeout", int(c.DialTimeout), int(time.Hour)},
		{"ReadyTimeout", int(c.ReadyTimeout), int(24 * time.Hour)},
	} {
		if f.v < 1 || f.v > f.limit {
			return fmt.Errorf("m2n: Config.%s is %d, want 1 to %d", f.name, f.v, f.limit)
		}
	}
	if c.Pace < 0 {
		return fmt.Errorf("m2n: Config.Pace is %d bytes a second, want 0 (no bound) or more", c.Pace)
	}
	return nil
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

// splitAddr takes an address apart: "shm+tcp:127.0.0.1:80" is shm, tcp and
// 127.0.0.1:80. Slashes may follow the first colon, as in a URL.
func splitAddr(addr string) (transports []string, rest string, err error) {
	scheme, rest, _ := strings.Cut(addr, ":")
	rest = strings.TrimPrefix(rest, "//")
	transports = strings.Split(scheme, "+")
	known := scheme == "inproc" || !slices.ContainsFunc(transports, func(t string) bool { return t != "shm" && t != "ucx" && t != "tcp" })
	if rest == "" || !known {
		return nil, "", fmt.Errorf("m2n: address %q is neither inproc:NAME nor one or several of shm, ucx and tcp, joined by +, and :HOST:PORT", addr)
	}
	return transports, rest, nil
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

// Post queues a message to a peer and returns the token of its Sent completion.
// It never blocks. Errors, by errors.Is: ErrUnknownPeer, *LostError, ErrQueueFull,
// ErrTooLarge, ErrClosed; and a span outside of its region.
func (e *Endpoint) Post(peer string, m Message) (uint64, error) {
	p, err := e.peer(peer)
	if err != nil {
		return 0, err
	}
	bytes, err := bodyBytes(m.Body)
	if err != nil {
		return 0, fmt.Errorf("post to peer %q: %w", peer, err)
	}
	o := &outgoing{
		pair: p, token: e.tokens.Add(1), header: slices.Clone(m.Header), body: slices.Clone(m.Body),
		bytes: bytes, ready: m.Ready, posted: time.Now(),
	}
	if err := p.post(o); err != nil {
		return 0, err
	}
	if g := e.engine.Load(); g != nil {
		g.yield(now())
	}
	return o.token, nil
}

func (e *Endpoint) peer(id string) (*pair, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closing {
		return nil, fmt.Errorf("post to peer %q: %w", id, ErrClosed)
	}
	p := e.pairs[id]
	if p == nil {
		return nil, fmt.Errorf("post to peer %q: %w", id, ErrUnknownPeer)
	}
	return p, nil
}

// bodyBytes checks the spans and adds their lengths.
func bodyBytes(body []Span) (int, error) {
	if len(body) > wire.MaxSpans {
		return 0, fmt.Errorf("%w: %d spans, the limit is %d", ErrTooLarge, len(body), wire.MaxSpans)
	}
	n := 0
	for i, s := range body {
		if s.Region == nil {
			return 0, fmt.Errorf("span %d has no region", i)
		}
		if s.Off < 0 || s.Len < 0 || s.Off > len(s.Region.Bytes)-s.Len {
			return 0, fmt.Errorf("span %d (offset %d, length %d) is outside of its region of %d bytes",
				i, s.Off, s.Len, len(s.Region.Bytes))
		}
		n += s.Len
	}
	return n, nil
}

// Poll returns the next completion, waiting for one until ctx ends. After Close
// it returns what is left of Sent and Lost, and then ErrClosed. It reads what other
// processes send: while nobody polls, a message may be noticed 32 ms late.
func (e *Endpoint) Poll(ctx context.Context) (Completion, error) {
	for {
		if c, ok := e.pop(); ok {
			return c, nil
		}
		if err := e.waitForCompletion(ctx); err != nil {
			return Completion{}, err
		}
	}
}

// TryPoll returns the next completion, if there is one.
func (e *Endpoint) TryPoll() (Completion, bool) {
	c, ok := e.pop()
	if g := e.engine.Load(); !ok && g != nil {
		g.tryProgress()
		return e.pop()
	}
	return c, ok
}

func (e *Endpoint) pop() (Completion, bool) {
	for {
		c, ok := e.completions.pop()
		if !ok || c.handOut() {
			return c, ok
		}
	}
}

// account notes that the consumer sees c; false where it must not, because the
// pair is over.
func (c *Completion) handOut() bool {
	switch c.Kind {
	case Received:
		if c.pair.discarded.Load() {
			c.pair.counters.droppedOld.Add(1)
			c.held.drop()
			return false
		}
		c.pair.counters.handedOut(c.Posted)
	case Sent:
		c.pair.outstanding.Add(-1)
	case Lost:
		c.pair.discarded.Store(true)
	}
	return true
}

// Release gives a Received completion's spans back, and with them the credit to
// the sender. Releasing twice, or another kind of completion, does nothing.
func (e *Endpoint) Release(c Completion) {
	if c.held != nil {
		c.held.release()
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
