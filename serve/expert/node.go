// Package expert is an expert node: it gathers rows from attention nodes, computes the
// experts that it holds, and returns the results. It may not know sequences or tokens.
package expert

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/gather"
	"github.com/tandem-moe/tandem/serve/node"
)

// Config is what an expert node is made of.
type Config struct {
	Spec   *model.Spec
	Device kernel.ExpertDevice
	// Place is the node's place in every placement.
	Place int
	// Wire is the format of rows; the attention nodes must have the same.
	Wire     route.Wire
	Endpoint *m2n.Endpoint
	// Linger bounds how long a message waits for messages of other nodes; 0 means
	// adaptive: see gather.Config.
	Linger time.Duration
	// Busy is told when the node begins and ends work; may be nil.
	Busy node.Pool
	// Reached, if set, is called on the node's loop for each attention node's first
	// message.
	Reached func(peer string)
	// Lost, if set, is called on the node's loop for each attention node whose
	// connection is lost. A node that is still alive can connect again after
	// m2n.Endpoint.RemovePeer and SetPeer.
	Lost func(peer string)
	Log  *slog.Logger
}

// Node gathers rows from attention nodes, computes their experts and returns the
// results, all in the goroutine of Run.
type Node struct {
	cfg     Config
	experts *layer.Experts
	gather  *gather.Gather
	origin  time.Time

	holdings sync.Mutex
	held     []*holding // in the order of Hold
	gathered *everything

	joined  map[string]attached // attention nodes, by id
	made    uint64              // number of connections with attention nodes so far
	pending []*dispatched       // scratch: the run's messages
	pairs   []route.Pairs       // scratch: the run's pairs
	places  []int32             // scratch: the places of the run's results
	sums    route.Sums
	// in and gate hold the rows and gate weights of a run, results the experts' results
	// and summed their sums. The last of these steps writes to an output instead.
	in, gate, results, summed kernel.Buffer

	outputs []*output               // free outputs
	sending map[node.Posted]*output // message → the output that it has a part of
	timer   time.Duration           // when to call gather.Timer; 0 for never
	turn    node.Turn
	stats   *node.Recorder
	moves   atomic.Uint64 // rises with everything that the loop does
}

// attached is an attention node.
type attached struct {
	inFlight uint64 // its micro-batches in flight, a bit for each
	// generation tells the connection from an earlier one with the same id.
	generation uint64
}

// dispatched is a message that waits for its run.
type dispatched struct {
	generation uint64 // generation of the connection that it came by
	header     route.Header
	holding    *holding
	pairs      route.Pairs
	rows       kernel.CodedMat
	gates      kernel.Mat
	completion m2n.Completion
}

// maxRunRows bounds the rows of a run, one for each pair of a row and an expert, and so
// the memory of a run, whatever the number of attention nodes: rows of 4,096 elements take
// 128 MiB on their way in, and as much on their way out. More rows would not read the
// weights less often that anyone would notice: these are 64 for each of 128 experts.
const maxRunRows = 8 << 10

// New makes a node that holds no experts yet: see [Node.Hold].
func New(cfg Config) (*Node, error) {
	g, err := gather.New(gather.Config{Layers: cfg.Spec.SparseLayers(), Linger: cfg.Linger, MaxRows: maxRunRows})
	if err != nil {
		return nil, err
	}
	experts, err := layer.NewExperts(cfg.Device, cfg.Spec)
	if err != nil {
		return nil, err
	}
	return &Node{
		cfg:     cfg,
		experts: experts,
		gather:  g,
		origin:  time.Now(),
		joined:  map[string]attached{},
		sending: map[node.Posted]*output{},
		turn:    node.Turn{Pool: cfg.Busy},
		stats:   node.NewRecorder(),
	}, nil
}

// Run serves until ctx ends or the device fails. At its end it has released all of the
// endpoint's messages; the caller closes the endpoint.
func (n *Node) Run(ctx context.Context) error {
	defer n.letGo()
	for {
		c, err := n.poll(ctx)
		n.moves.Add(1)
		switch {
		case errors.Is(err, errTimer):
			n.timer = 0
			err = n.act(ctx, n.gather.Timer(n.now()))
		case err == nil:
			if c.Kind == m2n.Received {
				n.turn.Begin() // helper threads wake while the message is read
			}
			if actions, decided := n.handle(c); decided {
				err = n.act(ctx, actions)
			}
		case ctx.Err() != nil || errors.Is(err, m2n.ErrClosed):
			return nil
		}
		if err != nil {
			return fmt.Errorf("expert node: %w", err)
		}
	}
}

// letGo releases the messages that the node still holds: else neither their memory nor
// that of a sender in this process could be freed.
func (n *Node) letGo() {
	for _, d := range n.pending { // also the messages of a run that has failed
		n.cfg.Endpoint.Release(d.completion)
	}
	for peer := range n.joined {
		a := n.gather.Lost(peer, n.now())
		if a.Run != nil {
			a.Drop = append(a.Drop, a.Run.Messages...)
		}
		n.drop(a)
	}
}

// errTimer says that it is time to call gather.Timer.
var errTimer = errors.New("timer")

// poll waits for a completion, or until it is time to call gather.Timer.
func (n *Node) poll(ctx context.Context) (m2n.Completion, error) {
	if c, ok := n.cfg.Endpoint.TryPoll(); ok {
		return c, nil
	}
	n.turn.End()
	if n.timer == 0 {
		return n.cfg.Endpoint.Poll(ctx)
	}
	left := n.timer - n.now()
	if left <= 0 {
		return m2n.Completion{}, errTimer
	}
	wait, cancel := context.WithTimeoutCause(ctx, left, errTimer)
	defer cancel()
	c, err := n.cfg.Endpoint.Poll(wait)
	if err != nil && ctx.Err() == nil && wait.Err() != nil {
		return m2n.Completion{}, errTimer
	}
	return c, err
}

func (n *Node) now() time.Duration { return time.Since(n.origin) }

// handle takes one completion. decided says that the gather has returned new actions;
// otherwise its earlier timer still holds. The node removes a peer that breaks the
// protocol.
func (n *Node) handle(c m2n.Completion) (a gather.Actions, decided bool) {
	switch c.Kind {
	case m2n.Sent:
		n.sent(c)
	case m2n.Lost:
		level := slog.LevelWarn
		if errors.Is(c.Err, m2n.ErrClosed) {
			level = slog.LevelDebug // the attention node said goodbye
		}
		n.cfg.Log.Log(context.Background(), level, "attention node lost", "peer", c.Peer, "error", c.Err)
		if n.cfg.Lost != nil {
			n.cfg.Lost(c.Peer)
		}
		return n.lost(c.Peer)
	case m2n.Received:
		a, decided, err := n.receive(c)
		if err == nil {
			return a, decided
		}
		n.cfg.Endpoint.Release(c)
		n.cfg.Log.Error("message refused", "peer", c.Peer, "error", err)
		n.cfg.Endpoint.RemovePeer(c.Peer)
		after, lost := n.lost(c.Peer)
		if lost {
			a = join(a, after)
		}
		return a, decided || lost
	}
	return a, false
}

func (n *Node) lost(peer string) (a gather.Actions, decided bool) {
	if _, ok := n.joined[peer]; !ok {
		return a, false
	}
	delete(n.joined, peer)
	n.stats.Working(n.anyInFlight())
	return n.gather.Lost(peer, n.now()), true
}

// receive hands an attention node's message to the gather. The actions are valid even
// with an error: the gather may have decided before the error.
func (n *Node) receive(c m2n.Completion) (a gather.Actions, decided bool, err error) {
	h, err := route.ParseHeader(c.Header)
	if err != nil {
		return a, false, err
	}
	if h.Kind == route.Status {
		if a, decided, err = n.inFlight(c.Peer, h.InFlight); err == nil {
			n.cfg.Endpoint.Release(c)
		}
		return a, decided, err
	}
	if h.Kind != route.Dispatch {
		return a, false, fmt.Errorf("a message of kind %d", h.Kind)
	}
	d, err := n.read(h, c)
	if err != nil {
		return a, false, fmt.Errorf("step %d, layer %d, micro-batch %d: %w", h.Step, h.Layer, h.MicroBatch, err)
	}
	defer func() {
		if err != nil {
			n.done(d.holding)
		}
	}()
	n.stats.Arrived(c)
	if a, decided, err = n.inFlight(c.Peer, h.InFlight); err != nil {
		return a, decided, err
	}
	d.generation = n.joined[c.Peer].generation
	next, err := n.gather.Arrive(gather.Message{
		Node: c.Peer, Step: h.Step, MicroBatch: h.MicroBatch, Layer: h.Layer, Rows: h.Pairs, Tag: d,
	}, n.now())
	if err != nil {
		return a, decided, err
	}
	return join(a, next), true, nil
}

// join joins the actions of two consecutive events.
func join(a, b gather.Actions) gather.Actions {
	b.Drop = slices.Concat(a.Drop, b.Drop)
	if a.Run != nil {
		b.Run = a.Run
	}
	return b
}

// inFlight tells the gather about a new attention node, or about a change of the node's
// micro-batches in flight.
func (n *Node) inFlight(peer string, batches uint64) (a gather.Actions, decided bool, err error) {
	was, known := n.joined[peer]
	now := attached{batches, was.generation}
	if !known {
		if err := n.gather.Joined(peer); err != nil {
			return a, false, err
		}
		if n.cfg.Reached != nil {
			n.cfg.Reached(peer)
		}
		n.made++
		now.generation = n.made
	}
	n.joined[peer] = now
	if known && was == now {
		return a, false, nil
	}
	n.stats.Working(n.anyInFlight())
	a, err = n.gather.Busy(peer, batches, n.now())
	return a, true, err
}

// anyInFlight says whether any attention node has micro-batches in flight.
func (n *Node) anyInFlight() bool {
	for _, a := range n.joined {
		if a.inFlight != 0 {
			return true
		}
	}
	return false
}

// read views a dispatch's body: rows, gate weights and pairs.
func (n *Node) read(h route.Header, c m2n.Completion) (*dispatched, error) {
	if err := h.ToSender(); err != nil {
		return nil, err
	}
	if h.Wire != n.cfg.Wire {
		return nil, fmt.Errorf("rows come by %v, this node takes %v", h.Wire, n.cfg.Wire)
	}
	if len(c.Body) != 3 {
		return nil, fmt.Errorf("%d spans, want rows, gate weights and pairs", len(c.Body))
	}
	d := &dispatched{header: h, completion: c}
	var err error
	if d.rows, err = node.CodedOfSpan(c.Body[0], n.cfg.Wire.Rows, n.cfg.Spec.Hidden); err != nil {
		return nil, err
	}
	if d.gates, err = node.MatOfSpan(c.Body[1], 1); err != nil {
		return nil, err
	}
	if d.rows.Rows != h.Rows || d.gates.Rows != h.Pairs {
		return nil, fmt.Errorf("%d rows and %d gate weights, the header says %d and %d", d.rows.Rows, d.gates.Rows, h.Rows, h.Pairs)
	}
	if err := route.ReadPairs(&d.pairs, c.Body[2].Bytes(), h.Rows, h.Pairs); err != nil {
		return nil, err
	}
	if d.holding, err = n.use(h.Placement, h.Layer); err != nil {
		return nil, err
	}
	if err := d.holding.checks[h.Layer].Check(d.pairs); err != nil {
		n.done(d.holding)
		return nil, fmt.Errorf("placement %d: %w", h.Placement, err)
	}
	return d, nil
}

// act carries out the gather's actions, until the gather decides to wait.
func (n *Node) act(ctx context.Context, a gather.Actions) error {
	for {
		n.drop(a)
		n.timer = a.Timer
		if a.Run == nil {
			return nil
		}
		if err := n.run(ctx, a.Run); err != nil {
			return err
		}
		a = n.gather.Done(n.now())
	}
}

// drain hands the messages that came during a run to the gather, so that its next
// decision counts them. It is called before the run is answered: an answer may bring the
// micro-batch's next message, which the gather accepts only after Done. Until Done, the
// gather starts no other run.
func (n *Node) drain() {
	for {
		c, ok := n.cfg.Endpoint.TryPoll()
		if !ok {
			return
		}
		actions, _ := n.handle(c)
		n.drop(actions)
	}
}

// drop releases messages that will never run.
func (n *Node) drop(a gather.Actions) {
	for _, m := range a.Drop {
		d := m.Tag.(*dispatched)
		n.cfg.Endpoint.Release(d.completion)
		n.done(d.holding)
	}
}

// Progress returns the loop's progress. It names no awaited member and no action: the
// loop waits for no particular node, and follows its gather instead of a schedule.
func (n *Node) Progress() cluster.Progress { return cluster.Progress{Steps: n.moves.Load()} }

// Stats returns the node's statistics.
func (n *Node) Stats() node.Stats {
	s := n.stats.Snapshot()
	s.Role = cluster.Expert
	s.Peers = n.cfg.Endpoint.Stats()
	return s
}

// Free frees the node's memory. Call it after Run has ended and the endpoint is closed.
func (n *Node) Free() {
	n.experts.Free()
	node.FreeAll(n.cfg.Device, n.in, n.gate, n.results, n.summed)
	for _, out := range n.sending {
		if out.parts--; out.parts == 0 {
			n.outputs = append(n.outputs, out)
		}
	}
	for _, out := range n.outputs {
		n.cfg.Device.Free(out.Buffer)
	}
}
