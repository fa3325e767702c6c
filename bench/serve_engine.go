package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// engine runs sequences through a deployment.
type engine struct {
	local *deploy.Local
	gates []*gate // of the attention nodes
}

// engineRun is a run's trace, and what the nodes did in its phases.
type engineRun struct {
	trace
	prompt, decode phase
}

// request is a greedy one that no token stops.
func request(prompt []int32, output int) serve.Request {
	return serve.Request{Prompt: prompt, MaxTokens: output, Logprobs: -1, PromptLogprobs: -1}
}

// run continues all prompts by the same number of tokens. The attention nodes
// are held in a step of one row each while the prompts arrive; the run begins
// with the step after it.
func (e *engine) run(ctx context.Context, prompts [][]int32, output int) (*engineRun, error) {
	w := newWatch(e.local.Stats, len(prompts))
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
	if err := w.collect(ctx, streams); err != nil {
		return nil, err
	}
	r := &engineRun{trace: w.trace, prompt: newPhase(w.began, w.decoding), decode: newPhase(w.decoding, w.ended)}
	r.steps = steps(before, w.stats()) - len(plugs)
	return r, nil
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

// submit hands over all prompts, as far as they are taken.
func (e *engine) submit(ctx context.Context, prompts [][]int32, output int) ([]serve.Stream, error) {
	var streams []serve.Stream
	for i, p := range prompts {
		s, err := e.local.Engine.Submit(ctx, request(p, output))
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

// each calls do for all events of a stream.
func each(ctx context.Context, s serve.Stream, do func(serve.Event)) error {
	for {
		e, err := s.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		do(e)
	}
}

// steps counts the steps of all attention nodes between two times.
func steps(before, after []serve.NodeStats) int {
	n := 0
	for i := range after {
		n += int(after[i].Steps - before[i].Steps)
	}
	return n
}

// watch notes when tokens appear, and the nodes' statistics when the run begins,
// when the last sequence begins to decode and when the first one ends.
type watch struct {
	trace
	stats                  func() []serve.NodeStats
	start                  time.Time
	began, decoding, ended []serve.NodeStats
	beginning, ending      sync.Once
	prefilling             atomic.Int64 // sequences without a token
}

func newWatch(stats func() []serve.NodeStats, sequences int) *watch {
	w := &watch{trace: newTrace(sequences), stats: stats}
	w.prefilling.Store(int64(sequences))
	return w
}

// begin notes that a step of the run begins: the first one counts.
func (w *watch) begin() {
	w.beginning.Do(func() { w.began, w.start = w.stats(), time.Now() })
}

// collect reads all streams to their ends.
func (w *watch) collect(ctx context.Context, streams []serve.Stream) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, s := range streams {
		g.Go(func() error {
			if err := each(ctx, s, func(e serve.Event) { w.event(i, e) }); err != nil {
				return fmt.Errorf("sequence %d of %d: %w", i, len(streams), err)
			}
			return nil
		})
	}
	return g.Wait()
}

// event notes what a sequence yields. Each sequence has a goroutine of its own
// and writes to its own part of the trace.
func (w *watch) event(sequence int, e serve.Event) {
	if e.HasToken {
		w.add(sequence, e.Token, time.Since(w.start))
		if e.Index == 0 && w.prefilling.Add(-1) == 0 {
			w.decoding = w.stats()
		}
	}
	if e.Finish != "" {
		w.ending.Do(func() { w.ended = w.stats() })
	}
}
