package completion

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/serve"
)

// Usage counts a request's tokens.
type Usage struct {
	// Prompt is the number of tokens of all prompts, each counted once however many
	// choices it has. Cached is how many of them were in a cached prefix.
	Prompt, Cached int
	// Completion is the number of output tokens of all choices, including stop tokens.
	Completion int
}

// Run is a request being served. Next and Close belong to one goroutine.
type Run struct {
	service *Service
	// The request has prompts prompts with n choices each.
	prompts, n int

	ctx    context.Context
	cancel context.CancelFunc
	usage  Usage
	first  time.Time

	waiting []*sequence
	running int
	// lone is the sequence of a request that has only one; Next reads it directly. Of
	// several sequences, each has a goroutine that reads it and sends to arrivals.
	lone     *sequence
	arrivals chan arrival
	readers  sync.WaitGroup
}

// arrival is what a sequence's reader sends: a delta, or io.EOF or an error as the
// sequence's end.
type arrival struct {
	delta Delta
	err   error
}

func newRun(ctx context.Context, s *Service, asked *Request, sequences []*sequence) *Run {
	ctx, cancel := context.WithCancel(ctx)
	r := &Run{service: s, prompts: len(asked.Prompts), n: asked.N, ctx: ctx, cancel: cancel, waiting: sequences}
	for _, p := range asked.Prompts {
		r.usage.Prompt += len(p)
	}
	if len(sequences) == 1 {
		r.lone = sequences[0]
	} else {
		r.arrivals = make(chan arrival)
	}
	return r
}

// fill submits waiting sequences to the engine while the window has room. While the
// engine has sequences of this run, its BusyError is no failure: fill is called again
// when one of them has ended.
func (r *Run) fill() error {
	for len(r.waiting) > 0 && r.running < r.service.cfg.Window {
		s := r.waiting[0]
		err := s.submit(r.ctx, r.service.cfg.Engine, r.service.cfg.Observe)
		var busy *serve.BusyError
		if errors.As(err, &busy) && r.running > 0 {
			return nil
		}
		if err != nil {
			return err
		}
		r.waiting = r.waiting[1:]
		r.running++
		if r.lone == nil {
			r.readers.Go(func() { r.read(s) })
		}
	}
	return nil
}

// read sends a sequence's deltas to arrivals until the sequence or the run ends.
func (r *Run) read(s *sequence) {
	defer s.close()
	for {
		delta, err := s.next(r.ctx)
		select {
		case r.arrivals <- arrival{delta, err}:
		case <-r.ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// Next returns the next delta of any choice, and io.EOF when all choices have ended.
// An error of one sequence is the error of the run.
func (r *Run) Next() (Delta, error) {
	for r.running > 0 {
		delta, err := r.arrival()
		if err == nil {
			r.count(delta)
			return delta, nil
		}
		if !errors.Is(err, io.EOF) {
			return Delta{}, err
		}
		r.running--
		if err := r.fill(); err != nil {
			return Delta{}, err
		}
	}
	return Delta{}, io.EOF
}

func (r *Run) arrival() (Delta, error) {
	if r.lone != nil {
		return r.lone.next(r.ctx)
	}
	select {
	case a := <-r.arrivals:
		return a.delta, a.err
	case <-r.ctx.Done():
		return Delta{}, r.ctx.Err()
	}
}

func (r *Run) count(d Delta) {
	if r.first.IsZero() {
		r.first = time.Now()
	}
	r.usage.Completion += len(d.Tokens)
	if d.Choice == 0 {
		r.usage.Cached += d.CachedTokens
	}
}

// Usage counts the prompts, and the output that Next has returned so far.
func (r *Run) Usage() Usage { return r.usage }

// First is when Next returned the first delta, or zero before that.
func (r *Run) First() time.Time { return r.first }

// Close cancels the sequences that still run, and waits for their readers to end.
func (r *Run) Close() {
	r.cancel()
	r.readers.Wait()
	if r.lone != nil {
		r.lone.close()
	}
}
