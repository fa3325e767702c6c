package attention

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/batch"
	"github.com/tandem-moe/tandem/serve/node"
	"github.com/tandem-moe/tandem/serve/sample"
)

// microBatch is a micro-batch with its step on the way through the layers.
type microBatch struct {
	rows     *layer.Activations
	exchange *exchange

	active    bool
	step      uint64
	work      *batch.Step
	ids       []int32
	positions []int32
	seqs      []kernel.Sequence
	results   []batch.Result
	picked    []picked // the next token of each of the step's sequences
}

// picked is a sequence's next token.
type picked struct {
	token   int32
	logprob *serve.TokenLogprob
	err     error
}

// start begins a micro-batch's next step: the batcher chooses the rows, whose embeddings
// become the residual stream. It returns false where there are no rows to compute.
func (n *Node) start(ctx context.Context, index int) (bool, error) {
	if err := n.accept(); err != nil || !n.pairs.Up() {
		return false, err
	}
	b := n.batches[index]
	b.work = n.batcher.Next(index)
	n.count()
	if b.work == nil {
		if n.announced == n.inFlight() {
			return false, nil
		}
		return false, n.announce()
	}
	n.step++
	b.active, b.step = true, n.step
	b.exchange.use(n.placement)
	b.fill()
	n.turn.Begin()
	begin := time.Now()
	n.attention.Embed(b.rows, b.ids)
	n.stats.Busy(time.Since(begin))
	return true, ctx.Err()
}

// fill lists the step's rows.
func (b *microBatch) fill() {
	b.ids, b.positions, b.seqs = b.ids[:0], b.positions[:0], b.seqs[:0]
	for _, s := range b.work.Seqs {
		b.seqs = append(b.seqs, kernel.Sequence{Row: len(b.ids), Rows: len(s.Tokens), Pos: s.Pos, Pages: s.Pages})
		b.ids = append(b.ids, s.Tokens...)
		for i := range s.Tokens {
			b.positions = append(b.positions, int32(s.Pos+i))
		}
	}
}

// finish ends a micro-batch's step: it computes the head, samples, and tells the results
// to the batcher and to the front end.
func (n *Node) finish(ctx context.Context, index int) error {
	b := n.batches[index]
	if err := n.combine(ctx, b); err != nil || !b.active {
		return err
	}
	if err := n.conclude(ctx, index, b); err != nil {
		return err
	}
	n.flush()
	return nil
}

// conclude picks the step's tokens, tells the batcher, and collects the reports. It
// updates the node's statistics before any report is delivered.
func (n *Node) conclude(ctx context.Context, index int, b *microBatch) error {
	n.turn.Begin()
	defer n.turn.End()
	begin := time.Now()
	if err := n.pick(ctx, b); err != nil {
		return err
	}
	b.results = b.results[:0]
	for i, rows := range b.work.Seqs {
		r := batch.Result{Token: b.picked[i].token}
		if s := n.sequences[rows.ID]; s != nil && rows.Sample {
			r.Stop = slices.Contains(s.request.StopIDs, r.Token)
		}
		b.results = append(b.results, r)
	}
	b.active = false
	n.pairs.Settle()
	outcomes := n.batcher.Done(index, b.results)
	for i, rows := range b.work.Seqs {
		n.report(rows, b.picked[i], outcomes[i])
	}
	n.count()
	n.stats.Busy(time.Since(begin))
	return nil
}

// report collects the report of a step's outcome for a sequence, unless the sequence was
// cancelled.
func (n *Node) report(rows batch.Rows, p picked, o batch.Outcome) {
	s := n.sequences[rows.ID]
	if s == nil || o == batch.Cancelled {
		return
	}
	if p.err != nil {
		if o == batch.Running {
			n.batcher.Cancel(rows.ID)
		}
		delete(n.sequences, rows.ID)
		n.reports = append(n.reports, serve.Report{ID: rows.ID, Err: p.err})
		return
	}
	if !rows.Sample && o == batch.Running {
		return
	}
	if !s.started {
		n.stats.Update(func(a *node.Stats) { a.PrefixQueries += uint64(len(s.request.Prompt)) })
	}
	n.reports = append(n.reports, serve.Report{ID: rows.ID, Event: s.event(rows, p, o)})
	if o != batch.Running {
		delete(n.sequences, rows.ID)
	}
}

// headRows is how many rows the head computes at once: enough that a decoding
// micro-batch reads the head's weights once, few enough that the logits of a long prompt
// are never in memory all at once.
const headRows = 64

// head is the memory of the logits.
type head struct {
	logits, lse kernel.Mirror
	capacity    int
	vocabulary  int
	sampler     sample.Sampler
	wanted      []wanted
	top         []sample.Candidate
}

// wanted is a row whose logits are needed: its sequence in the step, and the prompt token
// whose log-probability they give, or −1 where the next token is chosen by them.
type wanted struct {
	row      int32
	sequence int
	prompt   int
}

func (h *head) allocate(dev kernel.Memory, capacity, vocabulary int) error {
	var err error
	h.capacity, h.vocabulary = capacity, vocabulary
	if h.logits, err = kernel.NewMirror(dev, kernel.F32, capacity*vocabulary); err != nil {
		return fmt.Errorf("logits of %d rows: %w", capacity, err)
	}
	if h.lse, err = kernel.NewMirror(dev, kernel.F32, capacity); err != nil {
		return fmt.Errorf("logits of %d rows: %w", capacity, err)
	}
	return nil
}

func (h *head) free(dev kernel.Memory) {
	h.logits.Free(dev)
	h.lse.Free(dev)
}

// pick computes the logits that the step's sequences want, and chooses their
// next tokens.
func (n *Node) pick(ctx context.Context, b *microBatch) error {
	n.head.want(b, func(id uint64) bool { return n.sequences[id] != nil })
	b.picked = append(b.picked[:0], make([]picked, len(b.work.Seqs))...)
	for left := n.head.wanted; len(left) > 0; {
		block := left[:min(len(left), n.head.capacity)]
		left = left[len(block):]
		if err := n.logits(ctx, b, block); err != nil {
			return err
		}
		for i, w := range block {
			n.choose(b, w, n.head.row(i), kernel.Float32s(n.head.lse.Host())[i])
		}
	}
	return nil
}

// want lists the rows whose logits are needed. Cancelled sequences need none.
func (h *head) want(b *microBatch, alive func(id uint64) bool) {
	h.wanted = h.wanted[:0]
	for i, s := range b.work.Seqs {
		if !alive(s.ID) {
			continue
		}
		first := int32(b.seqs[i].Row)
		for r := s.PromptLo; r < s.PromptHi; r++ {
			h.wanted = append(h.wanted, wanted{first + int32(r), i, s.Pos + r + 1})
		}
		if s.Sample {
			h.wanted = append(h.wanted, wanted{first + int32(len(s.Tokens)-1), i, -1})
		}
	}
}

// logits computes the logits of a block of rows.
func (n *Node) logits(ctx context.Context, b *microBatch, block []wanted) error {
	rows := make([]int32, len(block))
	for i, w := range block {
		rows[i] = w.row
	}
	h, dev := &n.head, n.cfg.Device
	n.attention.Head(kernel.MatOf(h.logits.Buffer, len(rows), h.vocabulary), kernel.MatOf(h.lse.Buffer, len(rows), 1), b.rows, rows)
	h.logits.Fetch(dev, len(rows)*h.vocabulary)
	h.lse.Fetch(dev, len(rows))
	return dev.Record().Wait(ctx)
}

func (h *head) row(i int) []float32 {
	return kernel.Float32s(h.logits.Host())[i*h.vocabulary : (i+1)*h.vocabulary]
}

// choose uses a row's logits: it draws the sequence's next token, or takes a prompt
// token's log-probability.
func (n *Node) choose(b *microBatch, w wanted, logits []float32, lse float32) {
	p, s := &b.picked[w.sequence], n.sequences[b.work.Seqs[w.sequence].ID]
	switch {
	case p.err != nil:
	case !finite(lse):
		p.err = serve.ErrNotFinite
	case w.prompt >= 0:
		token := s.request.Prompt[w.prompt]
		s.prompt = append(s.prompt, n.head.logprob(logits, lse, token, s.request.PromptLogprobs))
	default:
		p.token, p.err = n.head.sampler.Sample(logits, &s.chain, &s.counter)
		if p.err != nil {
			p.err = fmt.Errorf("%w: %w", serve.ErrNotFinite, p.err)
			return
		}
		if s.request.Logprobs >= 0 {
			l := n.head.logprob(logits, lse, p.token, s.request.Logprobs)
			p.logprob = &l
		}
	}
}

// finite says whether x is neither infinite nor NaN: only then x−x is 0.
func finite(x float32) bool { return x-x == 0 }

// logprob returns the log-probabilities of a token and of the best candidates.
func (h *head) logprob(logits []float32, lse float32, token int32, top int) serve.TokenLogprob {
	l := serve.TokenLogprob{Logprob: serve.Logprob{Token: token, Logprob: sample.Logprob(logits[token], lse)}}
	h.top = h.sampler.Top(h.top[:0], logits, top)
	for _, c := range h.top {
		l.Top = append(l.Top, serve.Logprob{Token: c.Token, Logprob: sample.Logprob(c.Logit, lse)})
	}
	return l
}

// count records the node's current load in its statistics.
func (n *Node) count() {
	usage, counters := n.pages.Usage(), n.batcher.Counters()
	running, waiting := n.batcher.Running(), n.batcher.Waiting()
	n.stats.Update(func(s *node.Stats) {
		s.Steps, s.Rows, s.Preemptions = counters.Steps, counters.Rows, counters.Preemptions
		s.Running, s.Waiting = running, waiting
		s.CacheTokens = n.pages.Tokens()
		s.UsedTokens = usage.Referenced * n.cfg.Cache.PageTokens
		s.PrefixHits = usage.ReusedTokens
	})
}
