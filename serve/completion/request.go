package completion

import (
	"fmt"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/sample"
)

// Request asks for N continuations of each prompt.
type Request struct {
	// Prompts are lists of tokens; each has at least one.
	Prompts [][]int32
	// N is the number of choices per prompt. Choices of a prompt share its seed, and
	// sampling also depends on the choice's index: choice 0 is the same as with N = 1.
	N int
	// MaxTokens bounds each output in tokens; 0 computes the prompt only. Clip lowers
	// MaxTokens to what fits the context behind the prompt; without Clip a request
	// that does not fit is refused.
	MaxTokens int
	Clip      bool
	// MinTokens is how many tokens an output has before a stop string or stop id may
	// end it.
	MinTokens int
	// Stop are strings that end an output and are not part of its text.
	Stop []string
	// StopIDs are tokens that end an output. The model's end-of-sequence tokens are
	// added, unless IgnoreEOS.
	StopIDs   []int32
	IgnoreEOS bool
	// IncludeStop makes the stop string, or the stop token's text, part of the
	// text.
	IncludeStop bool
	// SkipSpecial leaves special tokens out of the text.
	SkipSpecial bool
	// Sampling.Seed is used only where Seeded; else each prompt gets a seed from
	// Config.Seed. Sampling.Choice is ignored: the choice's index is used.
	Sampling sample.Params
	Seeded   bool
	// Logprobs and PromptLogprobs are as in serve.Request: −1 means none.
	Logprobs       int
	PromptLogprobs int
}

// LengthError says that a prompt, or a prompt with the output asked for, is longer
// than the model's context.
type LengthError struct {
	// Prompt and Output are lengths in tokens. Output is 0 where the prompt alone
	// leaves no room.
	Prompt, Output int
	Limit          int
	// AtLeast says that the prompt has not been tokenized: Prompt is a lower bound of
	// its length.
	AtLeast bool
}

func (e *LengthError) Error() string { return e.Text("prompt") }

// Text is the error in OpenAI's words, which clients look for. field is the name of
// the prompt's field in the API: "prompt" or "messages".
func (e *LengthError) Text(field string) string {
	least := ""
	if e.AtLeast {
		least = "at least "
	}
	if e.Output == 0 {
		return fmt.Sprintf("This model's maximum context length is %d tokens. However, your %s resulted in %s%d tokens. Please reduce the length of the %s.",
			e.Limit, field, least, e.Prompt, field)
	}
	return fmt.Sprintf("This model's maximum context length is %d tokens. However, you requested %d tokens (%d in the %s, %d in the completion). Please reduce the length of the %s or completion.",
		e.Limit, e.Prompt+e.Output, e.Prompt, field, e.Output, field)
}

// CheckLength refuses a text that is certain to have more tokens than the model's
// context, without tokenizing it. The error is a *LengthError.
func (s *Service) CheckLength(text string) error {
	if least, limit := s.cfg.Tokenizer.LeastTokens(text), s.Context(); least > limit {
		return &LengthError{Prompt: least, Limit: limit, AtLeast: true}
	}
	return nil
}

// contextLimit is how many tokens a prompt and its output may have together.
func contextLimit(l serve.Limits) int {
	if l.CacheTokens > 0 {
		return min(l.MaxModelLen, l.CacheTokens)
	}
	return l.MaxModelLen
}

// validate checks all that does not depend on the context's length.
func (r *Request) validate(l serve.Limits) error {
	switch {
	case len(r.Prompts) == 0:
		return &serve.InvalidError{Field: "Prompt", Reason: "there is none"}
	case r.N < 1:
		return &serve.InvalidError{Field: "N", Reason: fmt.Sprintf("%d is less than 1", r.N)}
	case r.MaxTokens < 0:
		return &serve.InvalidError{Field: "MaxTokens", Reason: fmt.Sprintf("%d is negative", r.MaxTokens)}
	}
	for _, s := range r.Stop {
		if s == "" {
			return &serve.InvalidError{Field: "Stop", Reason: "a stop string is empty"}
		}
	}
	for i, p := range r.Prompts {
		if err := validatePrompt(p, l.Vocabulary); err != nil {
			return &serve.InvalidError{Field: "Prompt", Reason: r.about(i, err).Error()}
		}
	}
	return nil
}

// about adds to an error which of several prompts it is about.
func (r *Request) about(i int, err error) error {
	if len(r.Prompts) == 1 {
		return err
	}
	return fmt.Errorf("prompt %d: %w", i, err)
}

func validatePrompt(p []int32, vocabulary int) error {
	if len(p) == 0 {
		return fmt.Errorf("has no tokens; at least one is needed")
	}
	for i, id := range p {
		if id < 0 || int(id) >= vocabulary {
			return fmt.Errorf("token id %d at position %d is outside the vocabulary of %d", id, i, vocabulary)
		}
	}
	return nil
}

// budget is how many output tokens may follow a prompt of so many tokens.
func (r *Request) budget(prompt int, l serve.Limits) (int, error) {
	limit := contextLimit(l)
	switch {
	case prompt+r.MaxTokens <= limit:
		return r.MaxTokens, nil
	case !r.Clip:
		return 0, &LengthError{Prompt: prompt, Output: r.MaxTokens, Limit: limit}
	case prompt >= limit:
		return 0, &LengthError{Prompt: prompt, Limit: limit}
	default:
		return limit - prompt, nil
	}
}
