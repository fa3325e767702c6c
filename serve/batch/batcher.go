package batch

import (
	"fmt"
	"slices"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/kvcache"
)

// Batcher decides which rows one attention node computes next. It must be used by
// one goroutine at a time.
type Batcher struct {
	config Config
	cache  *kvcache.Cache

	seqs    map[uint64]*sequence
	waiting []*sequence // in order of arrival, like every list of sequences
	micro   []microBatch
	// short is the oldest sequence that could not get pages or was preempted, or
	// nil: no younger sequence gets pages before it.
	short *sequence

	arrivals int
	forced   map[Forced]bool
	counters Counters
	victims  []*sequence // scratch
	ids      []uint64    // scratch
}

// microBatch is a list of running sequences and the step that they are in.
type microBatch struct {
	running  []*sequence
	step     Step
	busy     bool
	outcomes []Outcome
}

// Counters count what has happened since the start.
type Counters struct {
	// Steps counts the steps that [Batcher.Next] returned, Rows their rows.
	Steps, Rows uint64
	// Preemptions counts all preemptions, Forced those that Config.Preempt asked
	// for.
	Preemptions, Forced uint64
	// Recomputed counts tokens that a sequence had computed before a preemption and
	// did not find in the cache when it started again.
	Recomputed uint64
}

// New makes a batcher that gives the cache's pages to its sequences.
func New(c Config, cache *kvcache.Cache) (*Batcher, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	b := &Batcher{
		config: c, cache: cache,
		seqs: make(map[uint64]*sequence), micro: make([]microBatch, c.MicroBatches),
		forced: make(map[Forced]bool),
	}
	for _, f := range c.Preempt {
		b.forced[f] = true
	}
	return b, nil
}

// Counters returns the totals since the start.
func (b *Batcher) Counters() Counters { return b.counters }

// Waiting counts the requests that hold no pages: new or preempted.
func (b *Batcher) Waiting() int { return len(b.waiting) }

// Running counts the sequences that hold pages.
func (b *Batcher) Running() int { return len(b.seqs) - len(b.waiting) }

// Submit queues a request. Errors: *[serve.InvalidError], *[serve.BusyError].
func (b *Batcher) Submit(r Request) error {
	if b.seqs[r.ID] != nil {
		return &serve.InvalidError{Field: "ID", Reason: fmt.Sprintf("request %d is here already", r.ID)}
	}
	if err := b.config.admissible(r, b.cache); err != nil {
		return err
	}
	places := b.config.MaxNumSeqs - b.Running()
	if len(b.waiting) >= b.config.MaxWaiting+places {
		return &serve.BusyError{Waiting: len(b.waiting), Limit: b.config.MaxWaiting}
	}
	s := newSequence(r, b.arrivals)
	b.arrivals++
	b.seqs[s.id] = s
	b.waiting = append(b.waiting, s)
	return nil
}

// Cancel ends a request at once or, if it is in a step, when that step is done. It
// reports whether there was such a request.
func (b *Batcher) Cancel(id uint64) bool {
	s := b.seqs[id]
	switch {
	case s == nil || s.cancelled:
		return false
	case s.inFlight > 0:
		s.cancelled = true
	default:
		b.end(s)
	}
	return true
}

// Busy reports whether a micro-batch has a step in flight.
func (b *Batcher) Busy(mb int) bool { return b.micro[mb].busy }

// Next returns the next step of a micro-batch that has no step in flight, or nil
// where there is nothing to compute. After nil, ask again when a Submit, Cancel,
// Done or Abort has happened, also one of another micro-batch.
func (b *Batcher) Next(mb int) *Step {
	m := &b.micro[mb]
	if m.busy {
		panic(fmt.Sprintf("batch: micro-batch %d is in step %d", mb, m.step.Number))
	}
	m.step = Step{MicroBatch: mb, Seqs: m.step.Seqs[:0]}
	if s := b.short; s != nil && s.microBatch >= 0 {
		b.extend(s)
	}
	b.decode(m)
	b.admit()
	b.prefill(m)
	if m.step.Tokens == 0 {
		return nil
	}
	b.counters.Steps++
	b.counters.Rows += uint64(m.step.Tokens)
	m.step.Number = b.counters.Steps
	m.busy = true
	return &m.step
}

// decode adds a row of each decoding sequence to the step. extend may preempt
// sequences of m.running; they are younger than s and so stand after i.
func (b *Batcher) decode(m *microBatch) {
	for i := 0; i < len(m.running); i++ {
		if s := m.running[i]; s.left() == 1 && b.extend(s) {
			b.add(m, s, 1)
		}
	}
}

// admit starts waiting sequences, in order of arrival, while there is room.
func (b *Batcher) admit() {
	for len(b.waiting) > 0 {
		mb := b.lightest(b.waiting[0])
		if mb < 0 || !b.start(b.waiting[0], mb) {
			return
		}
	}
}

// prefill fills the step with chunks of prompts. It also takes a sequence that has
// just started with a single token left. Sequences without pages for all their
// tokens are those that decode could not extend: they sit out.
func (b *Batcher) prefill(m *microBatch) {
	for _, s := range m.running {
		if s.inFlight > 0 || b.cache.Room(s.id) < len(s.tokens) {
			continue
		}
		n := min(s.left(), b.config.MaxBatchedTokens-m.step.Tokens)
		if b.config.ChunkTokens > 0 {
			n = min(n, b.config.ChunkTokens)
		}
		if n > 0 {
			b.add(m, s, n)
		}
	}
}

func (b *Batcher) add(m *microBatch, s *sequence, n int) {
	m.step.Seqs = append(m.step.Seqs, s.rows(n, b.cache.Pages(s.id)))
	m.step.Tokens += n
	s.inFlight = n
}

// Done ends a micro-batch's step whose rows have been computed. The results and
// the returned outcomes have one entry per sequence, in the order of Step.Seqs. The
// outcomes are valid until the micro-batch's next Done.
func (b *Batcher) Done(mb int, results []Result) []Outcome {
	m := b.flight(mb)
	if len(results) != len(m.step.Seqs) {
		panic(fmt.Sprintf("batch: %d results for the %d sequences of step %d", len(results), len(m.step.Seqs), m.step.Number))
	}
	m.outcomes = m.outcomes[:0]
	for i, rows := range m.step.Seqs {
		m.outcomes = append(m.outcomes, b.finish(b.seqs[rows.ID], rows, results[i]))
	}
	m.busy = false
	return m.outcomes
}

// Abort ends a step whose rows were not computed. Its sequences return to their
// state before the step, except that cancelled sequences end.
func (b *Batcher) Abort(mb int) {
	m := b.flight(mb)
	for _, rows := range m.step.Seqs {
		s := b.seqs[rows.ID]
		s.inFlight = 0
		if s.cancelled {
			b.end(s)
		}
	}
	m.busy = false
}

func (b *Batcher) flight(mb int) *microBatch {
	m := &b.micro[mb]
	if !m.busy {
		panic(fmt.Sprintf("batch: micro-batch %d is in no step", mb))
	}
	return m
}

// finish takes a sequence out of its step and says what became of it.
func (b *Batcher) finish(s *sequence, rows Rows, r Result) Outcome {
	s.inFlight = 0
	if s.cancelled {
		b.end(s)
		return Cancelled
	}
	b.cache.Commit(s.id, rows.Tokens)
	s.computed += len(rows.Tokens)
	s.steps++
	s.reported = max(s.reported, min(s.computed, s.promptRows()))
	if rows.Sample {
		s.tokens = append(s.tokens, r.Token)
	}
	switch {
	case rows.Sample && r.Stop:
		b.end(s)
		return Stopped
	case rows.Sample && s.outputs() == s.maxTokens, s.left() == 0: // left is 0 where no token was to be drawn
		b.end(s)
		return Length
	}
	if b.forced[Forced{s.arrival, s.steps}] {
		b.counters.Forced++
		b.preempt(s)
	}
	return Running
}

// end removes a sequence that is in no step.
func (b *Batcher) end(s *sequence) {
	if s.microBatch < 0 {
		b.waiting = remove(b.waiting, s)
	} else {
		b.leave(s)
	}
	if b.short == s {
		b.short = nil
	}
	delete(b.seqs, s.id)
}

// leave frees a running sequence's pages and its place in its micro-batch.
func (b *Batcher) leave(s *sequence) {
	m := &b.micro[s.microBatch]
	m.running = remove(m.running, s)
	b.cache.Free(s.id)
}

// preempt takes a running sequence's pages and lets it wait again, with priority
// for pages over younger sequences.
func (b *Batcher) preempt(s *sequence) {
	b.leave(s)
	b.counters.Preemptions++
	s.microBatch, s.computed, s.lost = -1, 0, s.computed
	b.waiting = insert(b.waiting, s)
	if b.short == nil || s.arrival < b.short.arrival {
		b.short = s
	}
}

// start gives the first waiting sequence its pages and a place in a micro-batch. It
// returns false where there are not enough pages.
func (b *Batcher) start(s *sequence, mb int) bool {
	keys := b.reusable(s)
	if !b.secure(want{s, keys, b.growing(s)}) {
		return false
	}
	cached, err := b.cache.Acquire(s.id, keys, len(s.tokens))
	if err != nil {
		panic(fmt.Sprintf("batch: pages for sequence %d, which were there: %v", s.id, err))
	}
	if s.cached < 0 {
		s.cached = min(cached, s.prompt)
	}
	b.counters.Recomputed += uint64(max(0, s.lost-cached))
	s.computed, s.microBatch = cached, mb
	b.waiting = slices.Delete(b.waiting, 0, 1)
	b.micro[mb].running = insert(b.micro[mb].running, s)
	return true
}

// reusable returns the keys of the full pages that a sequence may find in the
// cache.
func (b *Batcher) reusable(s *sequence) []kvcache.Key {
	if b.config.NoReuse || s.needsPrompt() {
		return nil
	}
	s.keys = b.cache.Identity().Keys(s.keys, s.tokens)
	return s.keys
}

// lightest chooses the micro-batch for a sequence that starts: the one with the
// fewest sequences, then the least context, then the lowest index. It leaves out
// micro-batches that are full of sequences or whose unfinished prompts fill a
// whole step; −1 means that none is left. A sequence that waits for the prompts
// holds no pages meanwhile, and may later find its prefix in the pages of those
// prompts. The oldest request does not wait for them.
func (b *Batcher) lightest(s *sequence) int {
	best := -1
	if b.Running() >= b.config.MaxNumSeqs {
		return best
	}
	oldest := !b.older(s)
	for i := range b.micro {
		m := &b.micro[i]
		if len(m.running) >= b.config.seqsPerMicroBatch() {
			continue
		}
		if m.backlog() >= b.config.MaxBatchedTokens && !oldest {
			continue
		}
		if best < 0 || m.lighter(&b.micro[best]) {
			best = i
		}
	}
	return best
}

// backlog is how many rows of the micro-batch's prompts no step has taken yet.
func (m *microBatch) backlog() (rows int) {
	for _, s := range m.running {
		if s.left() > 1 {
			rows += s.left() - s.inFlight
		}
	}
	return rows
}

func (m *microBatch) lighter(o *microBatch) bool {
	if len(m.running) != len(o.running) {
		return len(m.running) < len(o.running)
	}
	return m.context() < o.context()
}

// context is how many tokens attention reads for one step of all the sequences.
func (m *microBatch) context() (tokens int) {
	for _, s := range m.running {
		tokens += len(s.tokens)
	}
	return tokens
}
