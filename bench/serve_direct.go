package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/serve/deploy"
	"github.com/tandem-moe/tandem/serve/direct"
	"github.com/tandem-moe/tandem/serve/sample"
)

// direct is the baseline: attention and experts called one after the other, with
// the batches that the engine would make and nothing between them.
type plain struct {
	*direct.Model
	dev         kernel.Device
	cache       *layer.Cache
	vocabulary  int
	rows        int // of a step at most
	pages       int // of a sequence
	logits, lse kernel.Mirror
	sampler     sample.Sampler
}

// newDirect makes the baseline for so many sequences of so many tokens.
func newPlain(m *deploy.Model, o deploy.Options, w *deploy.Weights, dev kernel.Device, sequences, tokens, rows int) (*plain, error) {
	d := &plain{dev: dev, vocabulary: m.Spec.Vocabulary, rows: rows, pages: pagesOf(tokens)}
	var err error
	if d.cache, err = layer.NewCache(dev, m.Spec, sequences*d.pages, pageTokens); err != nil {
		return nil, err
	}
	if d.Model, err = deploy.NewDirect(m, o, w, dev, d.cache, rows); err != nil {
		return nil, err
	}
	if d.logits, err = kernel.NewMirror(dev, kernel.F32, sequences*d.vocabulary); err != nil {
		return nil, fmt.Errorf("logits of %d sequences: %w", sequences, err)
	}
	d.lse, err = kernel.NewMirror(dev, kernel.F32, sequences)
	return d, err
}

// free gives the memory back.
func (d *plain) free() {
	d.Free()
	d.cache.Free(d.dev)
	d.logits.Free(d.dev)
	d.lse.Free(d.dev)
}

// plainSequence is a sequence of the baseline.
type plainSequence struct {
	rest     []int32 // tokens to feed
	pos      int     // tokens fed
	pages    []int32
	counter  sample.Counter
	finished bool
}

// plainStep is the rows of a step of the baseline.
type plainStep struct {
	ids, pos []int32
	seqs     []kernel.Sequence
	wanted   []int32 // rows that give a token
	of       []int   // whose it is
}

// run continues all prompts by the same number of tokens, greedily.
func (d *plain) run(ctx context.Context, prompts [][]int32, output int) (trace, error) {
	t := newTrace(len(prompts))
	seqs := d.sequences(prompts)
	start := time.Now()
	for {
		s := d.step(seqs)
		if len(s.ids) == 0 {
			return t, nil
		}
		t.steps++
		if err := d.compute(ctx, s); err != nil {
			return t, fmt.Errorf("direct calls: %w", err)
		}
		if err := d.choose(&t, seqs, s, output, start); err != nil {
			return t, fmt.Errorf("direct calls: %w", err)
		}
	}
}

// engineRun is run, as the engine's runs are.
func (d *plain) engineRun(ctx context.Context, prompts [][]int32, output int) (*engineRun, error) {
	r := &engineRun{}
	err := labelled(ctx, "direct", func(ctx context.Context) (err error) {
		r.trace, err = d.run(ctx, prompts, output)
		return err
	})
	return r, err
}

// sequences gives each prompt its own pages.
func (d *plain) sequences(prompts [][]int32) []plainSequence {
	seqs := make([]plainSequence, len(prompts))
	for i, p := range prompts {
		s := &seqs[i]
		s.rest = p
		s.counter.Reset(p, nil)
		for page := range d.pages {
			s.pages = append(s.pages, int32(i*d.pages+page))
		}
	}
	return seqs
}

// step takes a row of everyone who decodes and fills up with prompts, in order:
// what the engine's batcher does.
func (d *plain) step(seqs []plainSequence) *plainStep {
	s := &plainStep{}
	for _, decoding := range []bool{true, false} {
		for i := range seqs {
			q := &seqs[i]
			if q.finished || (len(q.rest) == 1) != decoding {
				continue
			}
			if n := min(len(q.rest), d.rows-len(s.ids)); n > 0 {
				s.add(q, i, n)
			}
		}
	}
	return s
}

// add takes the next n rows of sequence i.
func (s *plainStep) add(q *plainSequence, i, n int) {
	s.seqs = append(s.seqs, kernel.Sequence{Row: len(s.ids), Rows: n, Pos: q.pos, Pages: q.pages})
	s.ids = append(s.ids, q.rest[:n]...)
	for p := range n {
		s.pos = append(s.pos, int32(q.pos+p))
	}
	q.rest, q.pos = q.rest[n:], q.pos+n
	if len(q.rest) == 0 {
		s.wanted, s.of = append(s.wanted, int32(len(s.ids)-1)), append(s.of, i)
	}
}

func (d *plain) compute(ctx context.Context, s *plainStep) error {
	if err := d.Forward(ctx, s.ids, s.pos, s.seqs); err != nil {
		return err
	}
	if n := len(s.wanted); n > 0 {
		d.Head(kernel.MatOf(d.logits.Buffer, n, d.vocabulary), kernel.MatOf(d.lse.Buffer, n, 1), s.wanted)
		d.logits.Fetch(d.dev, n*d.vocabulary)
	}
	return d.dev.Record().Wait(ctx)
}

// choose takes the best logit of each wanted row. All tokens of a step appear when
// the last one is chosen, as those of the engine do.
func (d *plain) choose(t *trace, seqs []plainSequence, s *plainStep, output int, start time.Time) error {
	chain := sample.Params{}.Chain()
	logits := kernel.Float32s(d.logits.Host())
	for row, i := range s.of {
		q := &seqs[i]
		token, err := d.sampler.Sample(logits[row*d.vocabulary:(row+1)*d.vocabulary], &chain, &q.counter)
		if err != nil {
			return fmt.Errorf("sequence %d: %w", i, err)
		}
		q.counter.Add(token)
		q.rest = []int32{token}
	}
	at := time.Since(start)
	for _, i := range s.of {
		q := &seqs[i]
		t.add(i, q.rest[0], at)
		q.finished = len(t.tokens[i]) == output
	}
	return nil
}
