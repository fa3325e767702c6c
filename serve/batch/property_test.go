package batch

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/kvcache"
)

const pageTokens = 4

// world is a batcher and what a runtime has beside it: requests, steps in flight,
// and the memory of the pages.
type world struct {
	b        *Batcher
	cache    *kvcache.Cache
	config   Config
	requests map[uint64]*request
	flight   []*Step
	// memory holds, for each token's place in a page, the prefix from which the keys
	// and values there were computed.
	memory [][pageTokens]string
	nextID uint64
}

// request is a request as its submitter sees it.
type request struct {
	Request
	tokens    []int32 // prompt and output
	prompt    []bool  // which prompt rows gave a log-probability
	stopAt    int     // output length at which the result says Stop
	ended     bool
	cancelled bool
}

func newWorld(t *rapid.T) *world {
	pages := rapid.IntRange(3, 14).Draw(t, "pages")
	c := Config{
		MicroBatches: rapid.IntRange(1, 4).Draw(t, "micro-batches"),
		MaxNumSeqs:   rapid.SampledFrom([]int{8, 5, 3, 2, 1}).Draw(t, "seqs"),
		ChunkTokens:  rapid.SampledFrom([]int{0, 1, 3}).Draw(t, "chunk"),
		MaxWaiting:   rapid.IntRange(0, 6).Draw(t, "waiting"),
		MaxModelLen:  rapid.SampledFrom([]int{60, 25, 6}).Draw(t, "length"),
		NoReuse:      rapid.Bool().Draw(t, "no reuse"),
	}
	c.MaxBatchedTokens = c.seqsPerMicroBatch() + rapid.IntRange(0, 12).Draw(t, "rows")
	for range rapid.IntRange(0, 3).Draw(t, "forced") {
		c.Preempt = append(c.Preempt, Forced{rapid.IntRange(0, 4).Draw(t, "sequence"), rapid.IntRange(1, 6).Draw(t, "step")})
	}
	cache, err := kvcache.New(kvcache.Identity{PageTokens: pageTokens}, pages)
	require.NoError(t, err)
	b, err := New(c, cache)
	require.NoError(t, err)
	return &world{
		b: b, cache: cache, config: c, requests: map[uint64]*request{},
		flight: make([]*Step, c.MicroBatches), memory: make([][pageTokens]string, pages),
	}
}

// someTokens draws from two tokens only, so that sequences often share a prefix.
func someTokens(t *rapid.T, least, most int, label string) []int32 {
	return rapid.SliceOfN(rapid.Int32Range(0, 1), least, most).Draw(t, label)
}

func (w *world) submit(t *rapid.T) {
	w.nextID++
	r := Request{
		ID: w.nextID, Prompt: someTokens(t, 1, 16, "prompt"), MaxTokens: rapid.IntRange(0, 24).Draw(t, "max"),
		PromptLogprobs: rapid.IntRange(0, 4).Draw(t, "logprobs") == 0,
	}
	r.Output = someTokens(t, 0, min(2, r.MaxTokens), "output")
	err := w.b.Submit(r)
	total := len(r.Prompt) + r.MaxTokens
	var invalid *serve.InvalidError
	var busy *serve.BusyError
	switch {
	case total > w.config.MaxModelLen || total > w.cache.Tokens():
		require.ErrorAs(t, err, &invalid)
	case err != nil:
		require.ErrorAs(t, err, &busy)
		require.GreaterOrEqual(t, w.b.Waiting(), w.config.MaxWaiting)
	default:
		w.requests[r.ID] = &request{
			Request: r, tokens: slices.Concat(r.Prompt, r.Output), prompt: make([]bool, len(r.Prompt)),
			stopAt: rapid.IntRange(1, 30).Draw(t, "stop"),
		}
	}
}

func (w *world) cancel(t *rapid.T) {
	id := rapid.Uint64Range(1, w.nextID+1).Draw(t, "id")
	r := w.requests[id]
	inFlight := w.inFlight(id)
	known := w.b.Cancel(id)
	require.Equal(t, r != nil && !r.ended, known)
	if known {
		r.ended, r.cancelled = true, true
		require.Equal(t, inFlight, w.b.seqs[id] != nil, "it stays only while its step runs")
	}
}

func (w *world) inFlight(id uint64) bool {
	for _, s := range w.flight {
		if s != nil && slices.ContainsFunc(s.Seqs, func(r Rows) bool { return r.ID == id }) {
			return true
		}
	}
	return false
}

// oldest is the live request that was submitted first.
func (w *world) oldest() *sequence {
	var oldest *sequence
	for _, s := range w.b.seqs {
		if oldest == nil || s.arrival < oldest.arrival {
			oldest = s
		}
	}
	return oldest
}

func (w *world) next(t *rapid.T, mb int) {
	if w.flight[mb] != nil {
		return
	}
	oldest := w.oldest()
	ran := oldest != nil && oldest.microBatch >= 0
	step := w.b.Next(mb)
	if ran {
		require.GreaterOrEqual(t, oldest.microBatch, 0, "the oldest was preempted")
	}
	if step == nil {
		return
	}
	w.flight[mb] = step
	require.Equal(t, mb, step.MicroBatch)
	require.LessOrEqual(t, step.Tokens, w.config.MaxBatchedTokens)
	rows := 0
	for i, r := range step.Seqs {
		rows += len(r.Tokens)
		w.compute(t, r)
		if i > 0 && len(r.Tokens) > 1 && len(step.Seqs[i-1].Tokens) > 1 {
			require.Less(t, w.b.seqs[step.Seqs[i-1].ID].arrival, w.b.seqs[r.ID].arrival, "prompts in order of arrival")
		}
	}
	require.Equal(t, rows, step.Tokens)
}

// compute stands for the forward pass: each row reads the places of all tokens
// before it and writes its own.
func (w *world) compute(t *rapid.T, r Rows) {
	q := w.requests[r.ID]
	require.NotNil(t, q)
	require.False(t, q.ended, "it has ended")
	require.NotEmpty(t, r.Tokens)
	hi := r.Pos + len(r.Tokens)
	require.Equal(t, q.tokens[r.Pos:hi], r.Tokens)
	for p := range r.Pos {
		require.Equal(t, fmt.Sprint(q.tokens[:p+1]), w.memory[r.Pages[p/pageTokens]][p%pageTokens])
	}
	for p := r.Pos; p < hi; p++ {
		w.memory[r.Pages[p/pageTokens]][p%pageTokens] = fmt.Sprint(q.tokens[:p+1])
	}
	require.Equal(t, hi == len(q.tokens) && len(q.tokens) < len(q.Prompt)+q.MaxTokens, r.Sample)
	require.Equal(t, len(q.tokens)-len(q.Prompt), r.Output)
	if q.PromptLogprobs && len(q.Output) == 0 && r.Cached > 0 {
		t.Fatalf("request %d for its prompt's log-probabilities reuses %d tokens", r.ID, r.Cached)
	}
	for i := r.PromptLo; i < r.PromptHi; i++ {
		require.False(t, q.prompt[r.Pos+i], "asked for twice")
	}
}

// done draws tokens and ends a step.
func (w *world) done(t *rapid.T, mb int) {
	step := w.flight[mb]
	if step == nil {
		return
	}
	w.flight[mb] = nil
	var results []Result
	var want []Outcome
	for _, r := range step.Seqs {
		q := w.requests[r.ID]
		for p := r.Pos; p < r.Pos+len(r.Tokens); p++ {
			require.Equal(t, fmt.Sprint(q.tokens[:p+1]), w.memory[r.Pages[p/pageTokens]][p%pageTokens], "overwritten in flight")
		}
		result, outcome := w.draw(q, r)
		results, want = append(results, result), append(want, outcome)
	}
	require.Equal(t, want, slices.Clone(w.b.Done(mb, results)))
}

// draw derives a sequence's result and expected outcome from the submitter's own
// books.
func (w *world) draw(q *request, r Rows) (Result, Outcome) {
	if q.ended {
		return Result{}, Cancelled
	}
	for i := r.PromptLo; i < r.PromptHi; i++ {
		q.prompt[r.Pos+i] = true
	}
	if !r.Sample {
		if r.Pos+len(r.Tokens) < len(q.tokens) {
			return Result{}, Running
		}
		q.ended = true
		return Result{}, Length
	}
	token := int32(len(q.tokens) % 2)
	q.tokens = append(q.tokens, token)
	outputs := len(q.tokens) - len(q.Prompt)
	stop := outputs >= q.stopAt
	q.ended = stop || outputs == q.MaxTokens
	switch {
	case stop:
		return Result{token, true}, Stopped
	case q.ended:
		return Result{token, false}, Length
	}
	return Result{token, false}, Running
}

func (w *world) abort(t *rapid.T) {
	mb := w.pick(t)
	if w.flight[mb] == nil {
		return
	}
	w.flight[mb] = nil
	w.b.Abort(mb)
}

func (w *world) pick(t *rapid.T) int {
	return rapid.IntRange(0, w.config.MicroBatches-1).Draw(t, "micro-batch")
}

// check verifies the invariants between events.
func (w *world) check(t *rapid.T) {
	require.NoError(t, w.cache.Check())
	usage := w.cache.Usage()
	require.Equal(t, len(w.memory), usage.Free+usage.Cached+usage.Referenced)
	require.LessOrEqual(t, w.b.Running(), w.config.MaxNumSeqs)
	if w.b.Running() == 0 {
		require.Zero(t, usage.Referenced, "pages are held by nobody")
	}
	running := 0
	for i := range w.b.micro {
		list := w.b.micro[i].running
		require.LessOrEqual(t, len(list), w.config.seqsPerMicroBatch())
		require.True(t, slices.IsSortedFunc(list, byArrival))
		running += len(list)
	}
	require.Equal(t, w.b.Running(), running)
	require.True(t, slices.IsSortedFunc(w.b.waiting, byArrival))
}

// drain does what the runtime does: when a step is done, it asks every idle
// micro-batch once. Until all requests have ended, some step must be in flight, and
// the oldest request must make progress.
func (w *world) drain(t *rapid.T) {
	var oldest *sequence
	progress, patience := -1, 0
	for range 20_000 {
		for mb := range w.flight {
			w.next(t, mb)
		}
		if len(w.b.seqs) == 0 {
			return
		}
		busy := []int{}
		for mb, s := range w.flight {
			if s != nil {
				busy = append(busy, mb)
			}
		}
		require.NotEmpty(t, busy, "a hang: %d wait", len(w.b.seqs))
		if o := w.oldest(); o != oldest || o.steps > progress {
			oldest, progress, patience = o, o.steps, 0
		}
		patience++
		// The other micro-batches' steps, to the end of their pages, may come first.
		require.Less(t, patience, 4*(pageTokens+2)*w.config.MicroBatches, "the oldest does not go on")
		w.done(t, rapid.SampledFrom(busy).Draw(t, "done"))
		w.check(t)
	}
	t.Fatal("it does not end")
}

func TestBatcherProperties(t *testing.T) {
	var seen Counters // over all runs, to check that the draws reached every case
	var pages kvcache.Counters
	missing := func() string {
		switch {
		case seen.Forced == 0:
			return "a forced preemption"
		case seen.Preemptions <= seen.Forced:
			return "a preemption that nobody forced"
		case seen.Recomputed == 0:
			return "rows that were computed again"
		case pages.ReusedTokens == 0:
			return "pages that were used again"
		case pages.Evictions == 0:
			return "an eviction"
		}
		return ""
	}
	check := func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"submit": w.submit, "submit2": w.submit, "cancel": w.cancel, "abort": w.abort,
			"next":  func(t *rapid.T) { w.next(t, w.pick(t)) },
			"next2": func(t *rapid.T) { w.next(t, w.pick(t)) },
			"done":  func(t *rapid.T) { w.done(t, w.pick(t)) },
			"done2": func(t *rapid.T) { w.done(t, w.pick(t)) },
			"":      w.check,
		})
		w.drain(t)
		for id, q := range w.requests {
			require.True(t, q.ended, "request %d", id)
			if !q.cancelled && q.PromptLogprobs && len(q.Output) == 0 {
				for p := range len(q.Prompt) - 1 {
					require.True(t, q.prompt[p], "request %d, prompt row %d", id, p)
				}
			}
		}
		require.Zero(t, w.cache.Usage().Referenced)
		seen.Forced += w.b.counters.Forced
		seen.Preemptions += w.b.counters.Preemptions
		seen.Recomputed += w.b.counters.Recomputed
		pages.ReusedTokens += w.cache.Usage().ReusedTokens
		pages.Evictions += w.cache.Usage().Evictions
	}
	rapid.Check(t, check)
	// One round of draws sometimes misses a case by chance.
	for round := 0; missing() != "" && !t.Failed() && !testing.Short() && round < maxRounds; round++ {
		rapid.Check(t, check)
	}
	if !t.Failed() && !testing.Short() { // -short draws too few runs to reach every case
		require.Empty(t, missing(), "what never happened")
	}
}

// maxRounds bounds the rounds of draws that a test makes to see everything happen.
const maxRounds = 30
