package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// engine runs sequences through a deployment.
type engine struct {
	local *deploy.Local
	gates []*gate // of the attention nodes

	mu    sync.Mutex
	watch *watch // of the run, nil between runs
}

// engineRun is a run's trace, and what the nodes did in its phases.
type engineRun struct {
	trace
	prompt, decode, whole phase
}

// run continues all prompts by the same number of tokens, at least 2. The
// attention nodes are held in a step of one row each while the prompts arrive;
// the run begins with the step after it.
func (e *engine) run(ctx context.Context, prompts [][]int32, output int) (*engineRun, error) {
	w := e.begin(len(prompts))
	before := w.stats()
	plugs, err := e.hold(ctx, w)
	defer closeAll(plugs)
	defer e.release()
	if err != nil {
		return nil, err
	}
	streams, err := e.submit(ctx, prompts, output)
	defer closeAll(streams)
	if err != nil {
		return nil, err
	}
	e.release()
	if err := drain(ctx, slices.Concat(plugs, streams)); err != nil {
		return nil, err
	}
	return w.result(before, len(plugs)), nil
}

// begin starts to watch.
func (e *engine) begin(sequences int) *watch {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watch = &watch{stats: e.local.Stats, prefilling: sequences, reported: map[uint64]*sequence{}}
	return e.watch
}

// observe takes what the attention nodes report, on their goroutines.
func (e *engine) observe(_ string, reports []serve.Report) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for _, r := range reports {
		e.watch.take(r, now)
	}
}

// hold keeps every attention node in a step.
func (e *engine) hold(ctx context.Context, w *watch) (plugs []serve.Stream, err error) {
	for _, g := range e.gates {
		g.arm(w.begin)
	}
	if plugs, err = e.submit(ctx, slices.Repeat([][]int32{{0}}, len(e.gates)), 1); err != nil {
		return plugs, err
	}
	for _, g := range e.gates {
		if err := g.wait(ctx); err != nil {
			return plugs, err
		}
	}
	return plugs, nil
}

func (e *engine) release() {
	for _, g := range e.gates {
		g.release()
	}
}

// submit hands over all prompts, as far as they are taken: greedy requests that
// no token stops.
func (e *engine) submit(ctx context.Context, prompts [][]int32, output int) ([]serve.Stream, error) {
	var streams []serve.Stream
	for i, p := range prompts {
		s, err := e.local.Engine.Submit(ctx, serve.Request{Prompt: p, MaxTokens: output, Logprobs: -1, PromptLogprobs: -1})
		if err != nil {
			return streams, fmt.Errorf("sequence %d of %d: %w", i, len(prompts), err)
		}
		streams = append(streams, s)
	}
	return streams, nil
}

// closeAll cancels what still runs.
func closeAll(streams []serve.Stream) {
	for _, s := range streams {
		s.Close()
	}
}

// drain reads all streams to their ends, as clients do: a goroutine each.
func drain(ctx context.Context, streams []serve.Stream) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range streams {
		g.Go(func() error {
			for {
				if _, err := s.Next(ctx); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// watch notes when nodes report tokens, and the nodes' statistics when the run
// begins, when the last sequence begins to decode and when the first one ends.
// Clients hear of tokens when the scheduler lets them; the nodes' own time is
// what can be compared.
type watch struct {
	stats                  func() []serve.NodeStats
	start                  time.Time
	began, decoding, ended []serve.NodeStats
	beginning              sync.Once
	prefilling             int                  // sequences without a token
	reported               map[uint64]*sequence // by request
}

// sequence is what was reported of a request.
type sequence struct {
	tokens []int32
	at     []time.Duration
}

// begin notes that a step of the run begins: the first one counts.
func (w *watch) begin() {
	w.beginning.Do(func() { w.began, w.start = w.stats(), time.Now() })
}

// take notes a report. Requests of one token are plugs.
func (w *watch) take(r serve.Report, now time.Time) {
	e := r.Event
	if !e.HasToken || e.Index == 0 && e.Finish != "" {
		return
	}
	s := w.reported[r.ID]
	if s == nil {
		s = &sequence{}
		w.reported[r.ID] = s
		if w.prefilling--; w.prefilling == 0 {
			w.decoding = w.stats()
		}
	}
	s.tokens, s.at = append(s.tokens, e.Token), append(s.at, now.Sub(w.start))
	if e.Finish != "" && w.ended == nil {
		w.ended = w.stats()
	}
}

// result is the run's, given the statistics before it and the number of plugs, a
// step each. Requests are numbered in the order in which they were submitted.
func (w *watch) result(before []serve.NodeStats, plugs int) *engineRun {
	end := w.stats()
	r := &engineRun{prompt: newPhase(w.began, w.decoding), decode: newPhase(w.decoding, w.ended), whole: newPhase(w.began, end)}
	for _, id := range slices.Sorted(maps.Keys(w.reported)) {
		s := w.reported[id]
		r.tokens, r.at = append(r.tokens, s.tokens), append(r.at, s.at)
	}
	for i := range end {
		r.steps += int(end[i].Steps - before[i].Steps)
	}
	r.steps -= plugs
	return r
}
