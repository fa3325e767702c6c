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

// Options say how a model is deployed. The zero value means one attention node, one
// expert node, and defaults that suit the machine.
type Options struct {
	// Attention and Experts are the numbers of attention and expert nodes. Experts need
	// not divide the model's number of experts. Default 1 and 1.
	Attention, Experts int
	// Placement says which expert node holds which experts. Default: contiguous blocks
	// that differ by at most one expert, the same in every layer, each expert once.
	Placement route.Placement
	// MicroBatches is how many micro-batches each attention node has in flight: with 2,
	// attention and experts work at the same time; 3 or 4 hide the network too. Default
	// 1: where attention and experts share cores, micro-batches only make batches
	// smaller.
	MicroBatches int
	// MaxModelLen bounds a request's prompt plus output in tokens. Default: the
	// model's.
	MaxModelLen int
	// MaxNumSeqs is how many sequences an attention node runs at once, default 64.
	// MaxBatchedTokens is how many rows a micro-batch has in a step at most, default
	// 512; a longer prompt is computed in chunks of at most that many tokens.
	MaxNumSeqs, MaxBatchedTokens int
	// MaxWaiting bounds the requests that wait, default 1024.
	MaxWaiting int
	// KVMemory is the bytes of KV cache of all attention nodes of this process.
	// Default: what MaxNumSeqs sequences of MaxModelLen tokens need on each node, but
	// at most a third of the memory that is free beside the weights, within the limits
	// of control groups.
	KVMemory int64
	// PageTokens is how many tokens a page of the KV cache holds. Default 16.
	PageTokens int
	// Threads bounds the threads of this process's nodes. Default: all cores.
	Threads int
	// Transport connects the nodes. In one process it is "inproc" (default), "shm" or
	// "tcp"; in a cluster it is "shm+tcp" (default: shared memory between two nodes on
	// one host, else TCP), "tcp" or "shm".
	Transport string
	// Wire is the format of rows between attention and expert nodes, also in one
	// process, and says where results are added up. Default: f32, added up by the
	// attention node.
	Wire route.Wire
	// Linger bounds how long an expert node holds rows of one attention node back to
	// join them with rows of others. 0 means adaptive; see gather.Config.
	Linger time.Duration
	// PeerTimeout is the silence after which a peer counts as lost. Default 2 s.
	PeerTimeout time.Duration
	// ExpertWait bounds how long an attention node's requests wait for another expert
	// node in the place of a lost one; then they end with an error. Default 2 min; with
	// a negative value they end at once.
	ExpertWait time.Duration
	// TLS is this process's identity in a cluster with TLS: it secures the control
	// protocol, and TCP connections between nodes. nil means no TLS.
	TLS *certs.Identity
	// API is the URL of the API, which the control port tells clients that mistake it
	// for the API; they are told nothing where it is empty.
	API string
	// Device makes a node's device; nil means the best CPU device. The node's name is
	// "attention-0", "expert-1", …, or its role where the process has only this node.
	// An attention node's device must be a kernel.Device. The nodes of one process
	// ([StartLocal]) share weights that a CPU device has packed ([LoadWeights]): a
	// device that cannot read those, as a GPU, needs a process for each node
	// ([NewNode]), where it packs its own. A device without kernel.AdoptsMemory
	// receives by TCP, not in shared memory.
	Device func(node string, pool *kernel.Pool) (kernel.ExpertDevice, error)
	// NoPrefixReuse computes every prompt from its beginning, even if a prefix is
	// cached.
	NoPrefixReuse bool
	// ChunkTokens bounds the rows of one prompt in a step. Default:
	// MaxBatchedTokens.
	ChunkTokens int
	// Observe, if set, gets the reports of this process's attention nodes, on the
	// node's goroutine and before any client gets them.
	Observe func(node string, reports []serve.Report)
	// Preempt, in tests, forces preemptions.
	Preempt []batch.Forced
	// Lose, in tests, makes each attention node lose expert nodes.
	Lose []attention.Loss
	// Progress gets how many bytes of weights have been loaded, for all nodes of this
	// process together, and how many there are. Several goroutines may call it.
	Progress func(done, total int64)
	Log      *slog.Logger

	cacheFrom string // the reason for KVMemory's value, for people
}

// fill sets defaults, and refuses values out of bounds.
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

// attentionDevice returns a device that computes attention as such, or refuses it.
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

// cacheTokens is the size of one attention node's KV cache, in tokens. Defaults must be
// filled in.
func (o *Options) cacheTokens(spec *model.Spec) int { return o.pages(spec) * o.PageTokens }

// slotBytes returns the sizes in bytes of the largest messages that an attention node
// and an expert node receive: all results of a step, and all rows of a step with their
// gate weights and pairs.
func (o *Options) slotBytes(spec *model.Spec) (attention, expert int) {
	rows, pairs, width := o.MaxBatchedTokens, o.MaxBatchedTokens*spec.Router.TopK, o.Wire.RowBytes(spec.Hidden)
	results := o.Wire.Results(rows, pairs)
	return results*width + route.PlacesSize(results), rows*width + pairs*4 + route.PairsSize(pairs)
}

// CacheBytes is the size of a page of the model's KV cache, in bytes.
func CacheBytes(m *Model, pageTokens int) int64 { return layer.CacheBytes(m.Spec, pageTokens) }
