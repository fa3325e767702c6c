package deploy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/internal/ratelog"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n/ucx"
	"github.com/tandem-moe/tandem/serve/node"
)

// NodeOptions say how one node joins a cluster. The front end decides the settings
// that all nodes share: Experts, MicroBatches, MaxModelLen, MaxBatchedTokens and Wire
// of the Options are ignored.
type NodeOptions struct {
	Options
	Role cluster.Role
	// Control is the front end's URL: https where Options.TLS is set, else http.
	Control string
	// Listen is the host:port at which the node listens for peers; port 0 takes a free
	// one. Advertise is the host, or host:port, that peers are told instead, or empty.
	// Where Listen is any address of the machine and Advertise is empty, peers are told
	// the address from which the machine reaches the front end.
	Listen, Advertise string
	Version           string
	// Grace is how long a node that is told to stop may stay for requests that need
	// it. With 0 it stops at once.
	Grace time.Duration
	// WantWire and WantCombine are names that the front end's Wire must have for the
	// node to join; an empty name allows any.
	WantWire, WantCombine string
	// Dial reaches other nodes; nil means plain TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Node is a node's process. It keeps its device and its weights from one membership to
// the next.
type Node struct {
	NodeOptions
	model *Model
	pool  *kernel.Pool
	dev   kernel.ExpertDevice
	// attends is dev on an attention node, nil on an expert node.
	attends kernel.Device
	at      addresses
	// limited bounds the rate of log lines that other nodes cause.
	limited *ratelog.Logger

	// The weights that are loaded: on an attention node for sequences of at most
	// positions tokens, on an expert node the experts of place.
	attention *layer.AttentionWeights
	positions int
	experts   *layer.ExpertWeights
	place     int

	// The node's progress: bytes of weights loaded, and the progress of the current
	// membership's loop, nil where none runs.
	loaded atomic.Uint64
	loop   atomic.Pointer[func() cluster.Progress]

	mu     sync.Mutex
	status Status
	stats  func() node.Stats // nil while the node has no statistics
}

// State is the stage of a node's membership.
type State string

// States, in their order. A node that loses the front end or a peer joins again.
const (
	Joining  State = "joining"
	Joined   State = "joined" // the node loads its weights, waits for other nodes, or does not reach them
	Ready    State = "ready"
	Draining State = "draining"
)

// Status is a node's state at a moment.
type Status struct {
	State State
	// ID is the node's id in the cluster, empty while it joins.
	ID string
	// Reason says what a node that is not ready waits for; empty where that is not
	// known.
	Reason string
}

// Pauses between attempts to join.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 2 * time.Second
)

// NewNode makes a node, which joins in Run. The caller closes it.
func NewNode(m *Model, o NodeOptions) (*Node, error) {
	filled := o.Options
	if err := filled.fill(m.Spec); err != nil {
		return nil, err
	}
	o.Log, o.PeerTimeout = filled.Log, filled.PeerTimeout
	at, err := parseAddresses(o.Listen, o.Advertise)
	if err != nil {
		return nil, err
	}
	if err := m.checkForeign(o.Log, role(o.Role, nil)); err != nil {
		return nil, err
	}
	if o.wantsUCX() {
		if err := ucx.Available(); err != nil {
			return nil, fmt.Errorf("transport %s: %w", o.Transport, err)
		}
	}
	n := &Node{
		NodeOptions: o, limited: ratelog.New(o.Log), model: m, pool: kernel.NewNodePool(filled.Threads), at: at,
		status: Status{State: Joining},
	}
	if err := n.fillCache(&filled); err != nil {
		n.pool.Close()
		return nil, err
	}
	if n.dev, err = filled.Device(string(o.Role), n.pool); err != nil {
		n.pool.Close()
		return nil, err
	}
	if o.Role == cluster.Attention {
		if n.attends, err = attentionDevice(n.dev); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	return n, nil
}

// Close frees the node's weights and closes its device. Call it after Run has ended.
func (n *Node) Close() error {
	defer n.pool.Close()
	n.dropAttention()
	n.keepExperts(nil)
	return n.dev.Close()
}

// Status returns the node's current state.
func (n *Node) Status() Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.status
}

// Stats returns the node's statistics since it became ready; before that they are
// zero.
func (n *Node) Stats() node.Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := node.Stats{Role: n.Role}
	if n.stats != nil {
		s = n.stats()
	}
	s.Node = n.status.ID
	return s
}

// setStatus sets the node's status. A draining node stays in state Draining until its
// membership ends.
func (n *Node) setStatus(s Status, stats func() node.Stats) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.status.State == Draining && (s.State == Joined || s.State == Ready) {
		return
	}
	n.status, n.stats = s, stats
}

// setIsolated sets the state of an expert node: Joined with the reason err where an
// attention node does not reach it, Ready where err is nil.
func (n *Node) setIsolated(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	if n.status.State == Draining || n.status.Reason == reason {
		return
	}
	n.status.State, n.status.Reason = Ready, reason
	if reason == "" {
		n.limited.Limited(slog.LevelInfo, "all attention nodes reach this node again", "node", n.status.ID)
		return
	}
	n.status.State = Joined
	n.limited.Limited(slog.LevelWarn, "this node cannot be reached: --advertise, or --listen, must be an address that attention nodes reach", "node", n.status.ID, "reason", reason)
}

// progress is the node's progress, which it sends to the front end with each beat.
func (n *Node) progress() cluster.Progress {
	p := cluster.Progress{Loaded: n.loaded.Load(), Steps: n.pool.Runs()}
	if loop := n.loop.Load(); loop != nil {
		at := (*loop)()
		p.Steps, p.Awaited, p.Action = p.Steps+at.Steps, at.Awaited, at.Action
	}
	return p
}

// follow makes a loop's progress part of the node's, until end is called.
func (n *Node) follow(loop func() cluster.Progress) (end func()) {
	n.loop.Store(&loop)
	return func() { n.loop.Store(nil) }
}

// loads takes the progress of loading weights, in bytes, and passes it to
// Options.Progress.
func (n *Node) loads(done, total int64) {
	n.loaded.Store(uint64(done))
	if n.Progress != nil {
		n.Progress(done, total)
	}
}

// Run works for the cluster until ctx ends, and then, no longer than the grace, until
// no request needs the node. A node whose membership ends joins again. Run returns an
// error only where joining again is in vain: the front end refuses the node for what
// it is, the node refuses the front end, or something fails on the node itself.
func (n *Node) Run(ctx context.Context) error {
	peers, err := listenForPeers(n.Listen)
	if err != nil {
		return err
	}
	defer peers.Close()
	waits := waiting{log: n.Log.With("control", n.Control)}
	pause := firstPause
	for {
		began := time.Now()
		err := n.TLS.Explain(n.member(ctx, peers))
		n.setStatus(Status{State: Joining, Reason: err.Error()}, nil)
		switch {
		case ctx.Err() != nil:
			return nil
		case permanent(err):
			return err
		}
		if time.Since(began) > maxPause {
			pause = firstPause
		}
		waits.tell(time.Now(), err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// permanent says whether joining again would fail in the same way.
func permanent(err error) bool {
	var failed *localError
	return connect.CodeOf(err) == connect.CodeInvalidArgument || errors.As(err, &failed)
}

// localError is a failure of the node itself, not of the front end or a peer.
type localError struct{ error }

func (e *localError) Unwrap() error { return e.error }

func wrapLocal(err error) error {
	if err == nil {
		return nil
	}
	return &localError{err}
}

// loadAttention loads the attention weights for sequences of at most positions tokens,
// unless they are loaded already.
func (n *Node) loadAttention(ctx context.Context, positions int) error {
	if n.attention != nil && n.positions == positions {
		return nil
	}
	var err error
	n.dropAttention()
	runtime.GC() // frees the memory of weights for another length
	n.attention, err = layer.LoadAttention(ctx, n.attends, n.model.Checkpoint, n.model.Spec, positions, n.loads)
	if err != nil {
		return &localError{fmt.Errorf("loading attention: %w", err)}
	}
	untied(n.Log, n.attention)
	n.positions = positions
	return nil
}

// dropAttention frees the attention weights' buffers on the device; the garbage
// collector frees the rest.
func (n *Node) dropAttention() {
	if n.attention != nil {
		n.attention.Free(n.dev)
		n.attention = nil
	}
}

// loadExperts loads the experts of a place, listed by layer, and keeps those that are
// loaded already.
func (n *Node) loadExperts(ctx context.Context, place int, experts [][]int) (err error) {
	ckpt, spec := n.model.Checkpoint, n.model.Spec
	if n.experts == nil {
		n.experts, err = layer.LoadExperts(ctx, n.dev, ckpt, spec, experts, n.loads)
	} else {
		err = n.experts.Load(ctx, n.dev, ckpt, spec, experts, n.loads)
	}
	if err != nil {
		return fmt.Errorf("loading the experts of place %d: %w", place, err)
	}
	n.place = place
	return nil
}

// keepExperts frees all experts but the given ones.
func (n *Node) keepExperts(experts [][]int) {
	if n.experts != nil {
		n.experts.Keep(n.dev, experts)
		runtime.GC() // frees their memory
	}
}
