// Package attention owns an attention node: the sequences with their KV cache, the
// attention part of every layer for their micro-batches, the exchange of rows with
// the expert nodes, the head and the choice of tokens. It may not know the other
// attention nodes, nor where a request comes from.
package attention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
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
	"github.com/tandem-moe/tandem/schedule"
	"github.com/tandem-moe/tandem/schedule/interpret"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/batch"
	"github.com/tandem-moe/tandem/serve/kvcache"
	"github.com/tandem-moe/tandem/serve/node"
)

// Config is what an attention node is made of.
type Config struct {
	Spec    *model.Spec
	Device  kernel.Device
	Weights *layer.AttentionWeights
	Cache   *layer.Cache
	// ModelHash and Numerics name what cached pages depend on.
	ModelHash, Numerics string
	Placement           route.Placement
	// Wire is how rows travel, the expert nodes' too.
	Wire     route.Wire
	Endpoint *m2n.Endpoint
	// MicroBatches in flight, and the sizes that bound them: sequences of the
	// node, rows of a micro-batch, tokens of a sequence.
	MicroBatches, MaxNumSeqs, MaxBatchedTokens, MaxModelLen int
	// MaxWaiting bounds the sequences that wait, ChunkTokens the rows of one
	// prompt in a step (0: MaxBatchedTokens).
	MaxWaiting, ChunkTokens int
	NoPrefixReuse           bool
	// Preempt forces preemptions, in tests.
	Preempt []batch.Forced
	// Reports takes what the node has to say of its requests. It must not block.
	Reports func([]serve.Report)
	// Busy is told when the node begins and ends work; nil means nobody is.
	Busy node.Pool
	Log  *slog.Logger
}

// Node holds sequences and their KV cache, and computes the attention
// part of every layer for their micro-batches. It is a Worker. Run is its loop,
// and all that computes runs there.
type Node struct {
	cfg       Config
	attention *layer.Attention
	batcher   *batch.Batcher
	pages     *kvcache.Cache
	walk      *interpret.Walk
	batches   []*microBatch
	sequences map[uint64]*sequence
	head      head
	step      uint64
	reports   []serve.Report
	experts   []string // ids of the expert nodes, by place
	announced uint64   // micro-batches in flight, as the expert nodes know it
	patience  patience
	turn      node.Turn
	stats     *node.Recorder
	handled   atomic.Uint64 // completions
	blocked   atomic.Int32  // the micro-batch that the loop waits for and 1, or 0

	mu    sync.Mutex
	inbox []command
	news  chan struct{}
}

// command is what the loop is asked to do between two steps: to begin a
// sequence, to cancel one, or something else.
type command struct {
	submit *serve.Request
	cancel uint64
	do     func()
}

// New makes a node over loaded weights and an empty cache.
func New(cfg Config) (*Node, error) {
	walk, err := newWalk(cfg.Spec, cfg.Placement.Nodes, cfg.MicroBatches)
	if err != nil {
		return nil, err
	}
	part, err := layer.NewAttention(cfg.Device, cfg.Spec, cfg.Weights, cfg.Cache)
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg:       cfg,
		attention: part,
		walk:      walk,
		sequences: map[uint64]*sequence{},
		stats:     node.NewRecorder(),
		turn:      node.Turn{Pool: cfg.Busy},
		news:      make(chan struct{}, 1),
	}
	n.pages, err = kvcache.New(kvcache.Identity{Model: cfg.ModelHash, Numerics: cfg.Numerics, PageTokens: cfg.Cache.PageTokens}, cfg.Cache.Pages)
	if err != nil {
		return nil, err
	}
	n.batcher, err = batch.New(batch.Config{
		MicroBatches: cfg.MicroBatches, MaxNumSeqs: cfg.MaxNumSeqs, MaxBatchedTokens: cfg.MaxBatchedTokens,
		ChunkTokens: cfg.ChunkTokens, MaxWaiting: cfg.MaxWaiting, MaxModelLen: cfg.MaxModelLen,
		NoReuse: cfg.NoPrefixReuse, Preempt: cfg.Preempt,
	}, n.pages)
	if err != nil {
		return nil, err
	}
	if err := n.allocate(); err != nil {
		n.Free()
		return nil, err
	}
	n.count()
	return n, nil
}

// allocate makes room for the micro-batches and the head.
func (n *Node) allocate() error {
	spec := n.cfg.Spec
	for range n.cfg.MicroBatches {
		b := &microBatch{}
		n.batches = append(n.batches, b)
		var err error
		if b.rows, err = n.attention.NewActivations(n.cfg.MaxBatchedTokens); err != nil {
			return err
		}
		b.exchange, err = newExchange(n.cfg.Device, n.cfg.Endpoint, n.cfg.Placement, n.cfg.Wire, n.cfg.MaxBatchedTokens, spec.Hidden, spec.Router.TopK)
		if err != nil {
			return err
		}
	}
	return n.head.allocate(n.cfg.Device, min(headRows, n.cfg.MaxBatchedTokens), spec.Vocabulary)
}

// Free gives the memory back. The loop has ended, and no endpoint reads the
// memory any more.
func (n *Node) Free() {
	for _, b := range n.batches {
		if b.rows != nil {
			n.attention.FreeActivations(b.rows)
		}
		if b.exchange != nil {
			b.exchange.free()
		}
	}
	n.head.free(n.cfg.Device)
}

// SetExperts names the expert nodes, by place. It is called before Run.
func (n *Node) SetExperts(ids []string) { n.experts = ids }

// Offer describes the node to a front end.
func (n *Node) Offer(id string, epoch uint64) serve.Offer {
	return serve.Offer{
		Node: id, Epoch: epoch, PageTokens: n.cfg.Cache.PageTokens,
		MaxNumSeqs: n.cfg.MaxNumSeqs, MaxBatchedTokens: n.cfg.MaxBatchedTokens,
		Limits: serve.Limits{
			Vocabulary: n.cfg.Spec.Vocabulary, MaxModelLen: n.cfg.MaxModelLen,
			CacheTokens: n.cfg.Cache.Pages * n.cfg.Cache.PageTokens,
		},
	}
}

// Submit hands over a request.
func (n *Node) Submit(r serve.Request) { n.tell(command{submit: &r}) }

// Cancel ends a request where it still runs.
func (n *Node) Cancel(id uint64) { n.tell(command{cancel: id}) }

func (n *Node) tell(c command) {
	n.mu.Lock()
	n.inbox = append(n.inbox, c)
	n.mu.Unlock()
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// submitted is the number of requests that the loop has not taken yet.
func (n *Node) submitted() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, c := range n.inbox {
		if c.submit != nil {
			count++
		}
	}
	return count
}

// PeerLostError is an expert node that cannot be reached: the node serves no
// more until it joins the cluster anew.
type PeerLostError struct {
	Peer  string
	Cause error
}

func (e *PeerLostError) Error() string {
	cause := e.Cause
	var pair *m2n.LostError // names the peer once more
	if errors.As(cause, &pair) {
		cause = pair.Cause
	}
	return fmt.Sprintf("expert node %s is lost: %v", e.Peer, cause)
}

func (e *PeerLostError) Unwrap() error { return e.Cause }

// Run serves until ctx ends (nil), an expert node is lost (*PeerLostError), or
// the device fails. Whatever ends it, no request is left without a last report.
func (n *Node) Run(ctx context.Context) error {
	err := n.serve(ctx)
	n.turn.End()
	n.patience.end()
	reason := &serve.UnavailableError{Reason: err.Error()}
	var lost *PeerLostError
	switch {
	case ctx.Err() != nil:
		err, reason.Reason = nil, stopping(ctx)
	case errors.As(err, &lost): // which step it was is for the log
		reason.Reason = lost.Error() + "; the request may be sent again"
	}
	n.accept()
	for id := range n.sequences {
		n.reports = append(n.reports, serve.Report{ID: id, Err: reason})
	}
	clear(n.sequences)
	n.flush()
	return err
}

// stopping says why the loop was told to end: the cause, where it is known.
func stopping(ctx context.Context) string {
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause.Error()
	}
	return "the attention node is stopping"
}

// serve walks through the node's actions while there is work, and waits between
// two passes while there is none. It ends with an error.
func (n *Node) serve(ctx context.Context) error {
	for {
		if err := n.rest(ctx); err != nil {
			return err
		}
		if err := n.walk.Pass(ctx, n.perform); err != nil {
			return err
		}
	}
}

// rest waits until there is a micro-batch in flight or a sequence to begin.
func (n *Node) rest(ctx context.Context) error {
	n.accept()
	for n.inFlight() == 0 && n.batcher.Waiting()+n.batcher.Running() == 0 {
		n.stats.Working(false)
		n.turn.End()
		if err := n.idle(ctx); err != nil {
			return err
		}
		n.accept()
	}
	n.stats.Working(true)
	return nil
}

// idleLook is how often a node without work looks whether it has lost an expert node.
const idleLook = 250 * time.Millisecond

// idle waits for a command, and meanwhile notices an expert node that is lost: the
// next request would have to find out otherwise.
func (n *Node) idle(ctx context.Context) error {
	look := time.NewTicker(idleLook)
	defer look.Stop()
	for {
		select {
		case <-n.news:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
			if err := n.handleAll(ctx); err != nil {
				return err
			}
		}
	}
}

// handleAll takes the completions that are there.
func (n *Node) handleAll(ctx context.Context) error {
	for {
		c, ok := n.cfg.Endpoint.TryPoll()
		if !ok {
			return nil
		}
		if err := n.handle(ctx, c); err != nil {
			return err
		}
	}
}

// accept takes what has been submitted and cancelled.
func (n *Node) accept() {
	n.mu.Lock()
	commands := n.inbox
	n.inbox = nil
	n.mu.Unlock()
	for _, c := range commands {
		switch {
		case c.do != nil:
			c.do()
		case c.submit == nil:
			n.cancelled(c.cancel)
		default:
			if err := n.begin(*c.submit); err != nil {
				n.reports = append(n.reports, serve.Report{ID: c.submit.ID, Err: err})
			}
		}
	}
	n.flush()
}

// flush hands the collected reports over, and the processor to those who wait for
// them: where nodes and their helpers keep all processors busy, a client would
// otherwise see its token at the end of a time slice, ten milliseconds later.
func (n *Node) flush() {
	if len(n.reports) == 0 {
		return
	}
	n.cfg.Reports(n.reports)
	n.reports = nil
	runtime.Gosched()
}

// inFlight is the set of micro-batches in a step.
func (n *Node) inFlight() uint64 {
	var set uint64
	for i, b := range n.batches {
		if b.active {
			set |= 1 << i
		}
	}
	return set
}

// forward computes the attention part of a layer and sends its rows to the
// experts.
func (n *Node) forward(ctx context.Context, a schedule.Action) error {
	b := n.batches[a.MicroBatch]
	if err := n.await(ctx, b, func() bool { return len(b.exchange.unsent) == 0 }); err != nil {
		return err
	}
	bodies, err := n.compute(ctx, b, a)
	if err != nil || bodies == nil {
		return err
	}
	return b.exchange.post(n.experts, bodies)
}

// compute computes the attention part of a layer, and packs what the experts are
// to have of it: nothing where the layer has none.
func (n *Node) compute(ctx context.Context, b *microBatch, a schedule.Action) ([][]m2n.Span, error) {
	n.turn.Begin()
	begin := time.Now()
	defer func() { n.stats.Computed(time.Since(begin)) }()
	n.attention.Forward(a.Layer, b.rows, b.seqs, b.positions)
	if !n.cfg.Spec.Layers[a.Layer].Sparse {
		return nil, nil
	}
	n.announced = n.inFlight()
	return b.exchange.pack(ctx, b.rows, route.Header{
		Kind: route.Dispatch, MicroBatch: a.MicroBatch, Layer: a.Layer,
		Step: b.step, Placement: n.cfg.Placement.Version, InFlight: n.announced,
	})
}

// stallTimeout bounds the wait for an expert node that is alive and does not
// answer: it ends between half of stallTimeout and all of it from its beginning.
const stallTimeout = time.Minute

// patience makes the contexts of waits that stallTimeout bounds. One serves many
// waits: a timer for each would wake a thread that sleeps until a later one, and
// cost more than the rest of a hand-over.
type patience struct {
	ctx    context.Context
	ends   time.Time
	cancel context.CancelFunc
}

func (p *patience) context(parent context.Context) context.Context {
	if now := time.Now(); p.ends.Sub(now) < stallTimeout/2 {
		p.end()
		p.ctx, p.cancel = context.WithTimeout(parent, stallTimeout)
		p.ends = now.Add(stallTimeout)
	}
	return p.ctx
}

func (p *patience) end() {
	if p.cancel != nil {
		p.cancel()
	}
}

// collect waits for a micro-batch's results of the last layer and adds them to
// its residual stream.
func (n *Node) collect(ctx context.Context, b *microBatch) error {
	if !b.exchange.pending {
		return nil
	}
	if err := n.await(ctx, b, func() bool { return b.exchange.waiting == 0 }); err != nil {
		return err
	}
	n.turn.Begin()
	begin := time.Now()
	b.exchange.combine(n.attention, b.rows)
	n.stats.Busy(time.Since(begin))
	return nil
}

// await takes completions until micro-batch b need not wait for them any more.
func (n *Node) await(ctx context.Context, b *microBatch, done func() bool) error {
	for !done() {
		c, err := n.poll(ctx, b)
		if err != nil {
			return err
		}
		if c.Kind == m2n.Received {
			n.turn.Begin() // helpers wake while it is read
		}
		if err := n.handle(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// poll waits for a completion while micro-batch b waits for one of its own.
func (n *Node) poll(ctx context.Context, b *microBatch) (m2n.Completion, error) {
	if c, ok := n.cfg.Endpoint.TryPoll(); ok {
		return c, nil
	}
	n.turn.End()
	wait := n.patience.context(ctx)
	n.blocked.Store(int32(slices.Index(n.batches, b)) + 1)
	defer n.blocked.Store(0)
	c, err := n.cfg.Endpoint.Poll(wait)
	if err != nil && ctx.Err() == nil && wait.Err() != nil {
		return c, fmt.Errorf("no %s of layer %d, micro-batch %d, step %d for %v", b.exchange.awaited(), b.exchange.sent.Layer, b.exchange.sent.MicroBatch, b.step, stallTimeout/2)
	}
	return c, err
}

// handle takes a completion of any micro-batch.
func (n *Node) handle(ctx context.Context, c m2n.Completion) error {
	n.handled.Add(1)
	switch c.Kind {
	case m2n.Sent:
		for _, b := range n.batches {
			delete(b.exchange.unsent, node.Posted{Peer: c.Peer, Token: c.Token})
		}
	case m2n.Lost:
		if slices.Contains(n.experts, c.Peer) {
			return &PeerLostError{Peer: c.Peer, Cause: c.Err}
		}
	case m2n.Received:
		defer n.cfg.Endpoint.Release(c)
		if err := n.receive(ctx, c); err != nil {
			return &PeerLostError{Peer: c.Peer, Cause: err}
		}
	}
	return nil
}

// receive takes an expert node's results to their micro-batch.
func (n *Node) receive(ctx context.Context, c m2n.Completion) error {
	h, err := route.ParseHeader(c.Header)
	if err != nil {
		return err
	}
	place := slices.Index(n.experts, c.Peer)
	if h.Kind != route.Return || place < 0 || h.MicroBatch >= len(n.batches) || !n.batches[h.MicroBatch].exchange.expects(h, place) {
		return fmt.Errorf("an unexpected message: kind %d, step %d, layer %d, micro-batch %d", h.Kind, h.Step, h.Layer, h.MicroBatch)
	}
	n.stats.Arrived(c)
	if err := n.batches[h.MicroBatch].exchange.collect(ctx, place, h, c.Body); err != nil {
		return fmt.Errorf("results of step %d, layer %d, micro-batch %d: %w", h.Step, h.Layer, h.MicroBatch, err)
	}
	return nil
}

// announce tells the expert nodes that fewer micro-batches are in flight, so
// that nobody waits for this node.
func (n *Node) announce() error {
	n.announced = n.inFlight()
	h := route.Header{Kind: route.Status, Placement: n.cfg.Placement.Version, InFlight: n.announced}
	for _, id := range n.experts {
		if _, err := n.cfg.Endpoint.Post(id, m2n.Message{Header: h.Append(nil)}); err != nil {
			return lost(id, err)
		}
	}
	return nil
}

// lost is the error of a post that failed.
func lost(peer string, err error) error {
	var l *m2n.LostError
	if errors.As(err, &l) {
		return &PeerLostError{Peer: peer, Cause: l}
	}
	return fmt.Errorf("posting to expert node %s: %w", peer, err)
}

// Progress tells how far the loop is: the action that it is at, and the expert nodes
// whose results it waits for.
func (n *Node) Progress() cluster.Progress {
	p := cluster.Progress{Steps: n.walk.Performed() + n.handled.Load(), Action: n.walk.At().At(0).String()}
	if b := n.blocked.Load(); b > 0 {
		x := n.batches[b-1].exchange
		for place, id := range n.experts {
			if x.awaits[place].Load() {
				p.Awaited = append(p.Awaited, id)
			}
		}
	}
	return p
}

// Stats tells what the node has done. Requests that came during a step wait.
func (n *Node) Stats() node.Stats {
	s := n.stats.Snapshot()
	s.Role = cluster.Attention
	s.Waiting += n.submitted()
	s.Peers = n.cfg.Endpoint.Stats()
	return s
}
