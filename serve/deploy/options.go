package deploy

import (
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/tandem-moe/tandem/certs"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/attention"
	"github.com/tandem-moe/tandem/serve/batch"
)

// Options say how a model is deployed. The zero value is one attention node, one
// expert node, and what suits the machine.
type Options struct {
	// Attention and Experts are the numbers of nodes: any, whatever the number
	// of experts. Default 1 and 1.
	Attention, Experts int
	// Placement says which expert node holds which experts. Default: contiguous blocks
	// that differ by at most one expert, the same in every layer, each expert once.
	Placement route.Placement
	// MicroBatches is how many each attention node has in flight: 2 let attention
	// and experts work at the same time, 3 or 4 hide the network too. Default 1:
	// where both work on the same cores, splitting a batch only makes it smaller.
	MicroBatches int
	// MaxModelLen bounds prompt plus output in tokens. Default: the model's, as
	// far as the KV cache holds one such sequence.
	MaxModelLen int
	// MaxNumSeqs is how many sequences an attention node runs at once, default
	// 64; MaxBatchedTokens how many rows a micro-batch has in a step, default
	// 512: a long prompt is computed in chunks of at most that many tokens.
	MaxNumSeqs, MaxBatchedTokens int
	// MaxWaiting bounds the queue, default 1024.
	MaxWaiting int
	// KVMemory is the bytes of KV cache of all attention nodes of this process.
	// Default: a third of the memory that is free beside the weights, within the
	// limits of control groups, and no more than MaxNumSeqs sequences of MaxModelLen
	// need.
	KVMemory int64
	// PageTokens is the room of a page of the KV cache. Default 16.
	PageTokens int
	// Threads bounds the threads of this process's nodes. Default: all cores.
	Threads int
	// Transport joins the nodes: those of one process by "inproc" (default), "shm" or
	// "tcp"; those of a cluster by "shm+tcp" (default: shared memory where two are on
	// one host), "tcp" or "shm".
	Transport string
	// Wire says how rows travel between attention and expert nodes, in one process
	// too, and where results are added up. Default: f32 and exactly.
	Wire route.Wire
	// Linger bounds how long an expert node holds rows of one attention node back
	// for those of others. 0: adaptive, see gather.Config.
	Linger time.Duration
	// PeerTimeout is the silence after which a peer counts as lost. Default 2 s.
	PeerTimeout time.Duration
	// ExpertWait bounds how long an attention node's requests wait where an expert node
	// is lost and none comes in its place: then they end with an error. Default 2 min;
	// negative: they end at once.
	ExpertWait time.Duration
	// TLS is who this process is among the members of a cluster: it secures the
	// control protocol, and connections between nodes by TCP. nil: without TLS.
	TLS *certs.Identity
	// API is the URL of the API, for those who take a control port for it; empty: they
	// are not told.
	API string
	// Device makes a node's device; nil: the CPU's best. Node names are
	// "attention-0", "expert-1", …; of a node of its own, its role. That of an attention
	// node is a kernel.Device.
	Device func(node string, pool *kernel.Pool) (kernel.ExpertDevice, error)
	// NoPrefixReuse computes every prompt whole.
	NoPrefixReuse bool
	// ChunkTokens bounds the rows of one prompt in a step. Default:
	// MaxBatchedTokens.
	ChunkTokens int
	// Observe, where it is set, is told by attention nodes in this process what
	// they report, when they do: on their goroutines, before any client hears.
	Observe func(node string, reports []serve.Report)
	// Preempt, in tests, forces preemptions.
	Preempt []batch.Forced
	// Lose, in tests, forces losses of expert nodes on each attention node.
	Lose []attention.Loss
	// Progress is told how much of the weights has been loaded, in bytes; of
	// several nodes the sum. It may be called from several goroutines.
	Progress func(done, total int64)
	Log      *slog.Logger

	cacheFrom string // where KVMemory comes from, for people
}

// fill puts defaults in and refuses what makes no sense.
func (o *Options) fill(spec *model.Spec) error {
	for _, d := range []struct {
		name  string
		value *int
		def   int
		max   int
	}{
		{"attention", &o.Attention, 1, 1 << 10},
		{"experts", &o.Experts, 1, 1 << 10},
		{"micro-batches", &o.MicroBatches, 1, route.MaxMicroBatches},
		{"max-num-seqs", &o.MaxNumSeqs, 64, 1 << 16},
		{"max-num-batched-tokens", &o.MaxBatchedTokens, 512, 1 << 20},
		{"page-tokens", &o.PageTokens, kernel.KVBlock, kernel.Span},
		{"max-waiting", &o.MaxWaiting, 1024, 1 << 20},
		{"threads", &o.Threads, runtime.GOMAXPROCS(0), 1 << 10},
		{"max-model-len", &o.MaxModelLen, spec.MaxPositions, spec.MaxPositions},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < 1 || *d.value > d.max {
			return fmt.Errorf("%s is %d, want 1 to %d", d.name, *d.value, d.max)
		}
	}
	if err := o.Wire.Validate(); err != nil {
		return err
	}
	if o.PageTokens%kernel.KVBlock != 0 {
		return fmt.Errorf("page-tokens is %d, want a multiple of %d", o.PageTokens, kernel.KVBlock)
	}
	if o.PeerTimeout == 0 {
		o.PeerTimeout = 2 * time.Second
	}
	if o.ExpertWait == 0 {
		o.ExpertWait = 2 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Device == nil {
		o.Device = func(_ string, pool *kernel.Pool) (kernel.ExpertDevice, error) {
			return kernel.NewCPU(kernel.CPUOptions{Pool: pool, Threads: o.Threads})
		}
	}
	return nil
}

// attentionDevice is a device as one that computes attention.
func attentionDevice(dev kernel.ExpertDevice) (kernel.Device, error) {
	if whole, ok := dev.(kernel.Device); ok {
		return whole, nil
	}
	return nil, fmt.Errorf("the device %q computes no attention, only experts", dev.Properties().Name)
}

// fillPlacement makes the placement where none is given: the one place that does. Nodes
// of a cluster take theirs from the view.
func (o *Options) fillPlacement(spec *model.Spec) error {
	if o.Placement.Nodes == 0 {
		o.Placement = route.Even(spec.Sparse(), spec.Router.Experts, o.Experts)
	}
	if err := o.Placement.Validate(); err != nil {
		return err
	}
	return o.Placement.Fits(spec.Sparse(), spec.Router.Experts, o.Experts)
}

// pages is the number of pages of one attention node.
func (o *Options) pages(spec *model.Spec) int {
	return int(o.KVMemory / int64(o.Attention) / layer.CacheBytes(spec, o.PageTokens))
}

// CacheTokens is the size of one attention node's KV cache, once defaults are
// filled in.
func (o *Options) cacheTokens(spec *model.Spec) int { return o.pages(spec) * o.PageTokens }

// slotBytes are the largest messages that an attention node and an expert node
// receive: all results, and all rows with their gate weights and pairs.
func (o *Options) slotBytes(spec *model.Spec) (attention, expert int) {
	rows, pairs, width := o.MaxBatchedTokens, o.MaxBatchedTokens*spec.Router.TopK, o.Wire.RowBytes(spec.Hidden)
	results := o.Wire.Results(rows, pairs)
	return results*width + route.PlacesSize(results), rows*width + pairs*4 + route.PairsSize(pairs)
}

// CacheBytes is the memory of a page of the model's KV cache, in bytes.
func CacheBytes(m *Model, pageTokens int) int64 { return layer.CacheBytes(m.Spec, pageTokens) }
