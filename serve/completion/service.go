package completion

import (
	"context"
	"math/rand/v2"
	"slices"

	"github.com/tandem-moe/tandem/serve"
)

// Config is what a Service is made of.
type Config struct {
	Engine    serve.Engine
	Tokenizer Tokenizer
	// EOS are the model's end-of-sequence tokens.
	EOS []int32
	// Observe returns the observer of a sequence that the engine has admitted; it
	// gets the prompt's length in tokens. Nil means that no sequence is observed.
	Observe func(promptTokens int) SequenceObserver
	// Seed draws a seed for each prompt of a request without a seed. Nil means
	// random seeds.
	Seed func() uint64
	// Window is how many sequences of one request the engine may have at a time; 0
	// means 64. The others wait here, so that a request may have more sequences than
	// fit the engine's queue.
	Window int
}

// Service completes prompts. It is safe for concurrent use.
type Service struct {
	cfg Config
}

// New makes a service.
func New(cfg Config) *Service {
	if cfg.Observe == nil {
		cfg.Observe = func(int) SequenceObserver { return ignorant{} }
	}
	if cfg.Seed == nil {
		cfg.Seed = rand.Uint64
	}
	if cfg.Window == 0 {
		cfg.Window = 64
	}
	return &Service{cfg: cfg}
}

// Tokenizer returns the tokenizer of the service's model.
func (s *Service) Tokenizer() Tokenizer { return s.cfg.Tokenizer }

// Limits returns the engine's limits.
func (s *Service) Limits() serve.Limits { return s.cfg.Engine.Limits() }

// Context is how many tokens a prompt and its output may have together.
func (s *Service) Context() int { return contextLimit(s.Limits()) }

// Start validates a request and submits its first sequences to the engine, at least
// one. Errors: *serve.InvalidError, *LengthError and those of [serve.Engine]'s
// Submit. The caller closes the run. When ctx ends, so does the run.
func (s *Service) Start(ctx context.Context, r Request) (*Run, error) {
	if err := r.validate(s.Limits()); err != nil {
		return nil, err
	}
	sequences, err := s.sequences(&r)
	if err != nil {
		return nil, err
	}
	run := newRun(ctx, s, &r, sequences)
	if err := run.fill(); err != nil {
		run.Close()
		return nil, err
	}
	return run, nil
}

// sequences makes the request's sequences, ordered by prompt, then by choice.
func (s *Service) sequences(r *Request) ([]*sequence, error) {
	if !r.IgnoreEOS {
		r.StopIDs = slices.Concat(r.StopIDs, s.cfg.EOS)
	}
	all := make([]*sequence, 0, len(r.Prompts)*r.N)
	for i, prompt := range r.Prompts {
		budget, err := r.budget(len(prompt), s.Limits())
		if err != nil {
			return nil, r.about(i, err)
		}
		if !r.Seeded {
			r.Sampling.Seed = s.cfg.Seed()
		}
		for choice := range r.N {
			all = append(all, s.sequence(r, i, choice, budget))
		}
	}
	return all, nil
}

func (s *Service) sequence(r *Request, prompt, choice, budget int) *sequence {
	sampling := r.Sampling
	sampling.Choice = uint32(choice)
	return &sequence{
		prompt: prompt, choice: choice, skipSpecial: r.SkipSpecial,
		tokenizer: s.cfg.Tokenizer, decoder: newDecoder(s.cfg.Tokenizer, r),
		request: serve.Request{
			Prompt: r.Prompts[prompt], MaxTokens: budget, MinTokens: r.MinTokens,
			StopIDs: r.StopIDs, Sampling: sampling,
			Logprobs: r.Logprobs, PromptLogprobs: r.PromptLogprobs,
		},
	}
}
