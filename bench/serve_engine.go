package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/deploy"
	"github.com/tandem-moe/tandem/serve/frontend"
	"github.com/tandem-moe/tandem/serve/node"
)

// engine runs sequences through a deployment.
type engine struct {
	front *frontend.FrontEnd
	nodes
}

// nodes are a deployment's, as a run needs them: the attention nodes are held in
// a step while the run's sequences arrive.
type nodes interface {
	// attention is the number of attention nodes.
	attention() int
	// arm begins to watch a run of so many sequences, and holds the next step of
	// every attention node.
	arm(sequences int) error
	// wait returns when all are held.
	wait(ctx context.Context) error
	// release lets them go on once all the run's sequences are there.
	release() error
	// result is the run's, once all its streams have ended.
	result(ctx context.Context) (*engineRun, error)
	close() error
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
	if err := e.arm(len(prompts)); err != nil {
		return nil, err
	}
	streams, err := e.submitHeld(ctx, prompts, output)
	defer closeAll(streams)
	if err := errors.Join(err, e.release()); err != nil {
		return nil, err
	}
	if err := drain(ctx, streams); err != nil {
		return nil, err
	}
	return e.result(ctx)
}

// submitHeld hands over a plug for every attention node, and all prompts once the
// nodes are held.
func (e *engine) submitHeld(ctx context.Context, prompts [][]int32, output int) ([]serve.Stream, error) {
	plugs, err := e.submit(ctx, slices.Repeat([][]int32{{0}}, e.attention()), 1)
	if err != nil {
		return plugs, err
	}
	if err := e.wait(ctx); err != nil {
		return plugs, err
	}
	streams, err := e.submit(ctx, prompts, output)
	return slices.Concat(plugs, streams), err
}

// submit hands over all prompts, as far as they are taken: greedy requests that
// no token stops.
func (e *engine) submit(ctx context.Context, prompts [][]int32, output int) ([]serve.Stream, error) {
	var streams []serve.Stream
	for i, p := range prompts {
		s, err := e.front.Submit(ctx, serve.Request{Prompt: p, MaxTokens: output, Logprobs: -1, PromptLogprobs: -1})
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

// localNodes are those of one process, this one.
type localNodes struct {
	*observed
	local  *deploy.Local
	before []node.Stats // the run
}

func (n *localNodes) attention() int { return len(n.gates) }

func (n *localNodes) arm(sequences int) error {
	n.before = n.local.Stats()
	n.observed.arm(sequences)
	return nil
}

func (n *localNodes) release() error {
	n.observed.release()
	return nil
}

func (n *localNodes) result(context.Context) (*engineRun, error) {
	w := n.current()
	s := statistics{before: n.before, at: w.at, cpu: w.cpu, after: n.local.Stats()}
	return s.run(w.trace(), n.attention()), nil
}

func (n *localNodes) close() error { return n.local.Close() }
