// Package attention owns an attention node: the sequences with their KV cache, the
// attention part of every layer for their micro-batches, the exchange of rows with
// the expert nodes, the head and the choice of tokens. It may not know the other
// attention nodes, nor where a request comes from.
package attention

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/schedule/interpret"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/attention/dispatch"
	"github.com/tandem-moe/tandem/serve/attention/pairs"
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
	// Placement is where experts are until SetPlacement says otherwise.
	Placement route.Placement
	// Placed is told, on the node's loop, each time that the steps under way and to come
	// have left an older placement behind: nothing is sent by versions before the given
	// one any more. nil means nobody is.
	Placed func(version uint64)
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
	// ExpertWait bounds how long requests wait where an expert node is lost and no
	// other comes in its place; then they end with an error. 0: they end at once.
	ExpertWait time.Duration
	// Pairs, where it is set, is told how the node is connected with the expert nodes,
	// by place, whenever that changes, on the node's loop. It must not block.
	Pairs func([]pairs.Pair)
	// Lose forces losses of expert nodes, in tests.
	Lose []Loss
	// Reports takes what the node has to say of its requests. It must not block.
	Reports func([]serve.Report)
	// Busy is told when the node begins and ends work; nil means nobody is.
	Busy node.Pool
	Log  *slog.Logger
}

// Loss is the loss of the pair with the expert node of a place, though both live, once
// the node's layers have been sent to the experts so many times.
type Loss struct {
	Dispatches uint64
	Place      int
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
	sent      uint64 // layers of micro-batches, to the experts
	batches   []*microBatch
	sequences map[uint64]*sequence
	head      head
	step      uint64
	placement route.Placement // of steps to come
	placed    uint64          // as Placed was told
	reports   []serve.Report
	pairs     *pairs.Pairs
	experts   atomic.Pointer[[]string] // ids of the expert nodes, by place, for Progress
	announced uint64                   // micro-batches in flight, as the expert nodes know it
	patience  patience
	turn      node.Turn
	stats     *node.Recorder
	handled   atomic.Uint64 // completions, and looks whether lost expert nodes are back
	awaited   places        // of the expert nodes whose results the loop waits for

	mu      sync.Mutex
	inbox   []command
	members []pairs.Member // what SetExperts said last
	news    chan struct{}
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
		placement: cfg.Placement,
		stats:     node.NewRecorder(),
		turn:      node.Turn{Pool: cfg.Busy},
		pairs:     pairs.New(cfg.Placement.Nodes, cfg.ExpertWait),
		awaited:   make(places, dispatch.Words(cfg.Placement.Nodes)),
		news:      make(chan struct{}, 1),
	}
	n.experts.Store(&[]string{})
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

// Progress tells how far the loop is: the action that it is at, and the expert nodes
// whose results it waits for.
func (n *Node) Progress() cluster.Progress {
	p := cluster.Progress{Steps: n.walk.Performed() + n.handled.Load(), Action: n.walk.At().At(0).String()}
	for place, id := range *n.experts.Load() {
		if n.awaited.has(place) && id != "" {
			p.Awaited = append(p.Awaited, id)
		}
	}
	return p
}

// places is a set of expert nodes' places, as dispatch.Missing has them, that other
// goroutines read. What they read may be half of one set and half of the next.
type places []atomic.Uint64

func (p places) set(words []uint64) {
	for i, w := range words {
		p[i].Store(w)
	}
}

func (p places) clear() {
	for i := range p {
		p[i].Store(0)
	}
}

func (p places) has(place int) bool { return p[place/64].Load()>>(place%64)&1 == 1 }

// Stats tells what the node has done. Requests that came during a step wait.
func (n *Node) Stats() node.Stats {
	s := n.stats.Snapshot()
	s.Role = cluster.Attention
	s.Waiting += n.submitted()
	s.Peers = n.cfg.Endpoint.Stats()
	return s
}
