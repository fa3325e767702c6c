package completion

import (
	"fmt"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/sample"
)

// Request asks for N continuations of each prompt.
type Request struct {
	// Prompts are lists of token ids; each has at least one.
	Prompts [][]int32
	// N is the number of choices per prompt. They share a seed and differ in
	// their choice index, so that choice 0 is what N = 1 gives.
	N int
	// MaxTokens bounds each output; 0 evaluates the prompt only. Clip cuts it to
	// what fits behind the prompt, instead of refusing what does not.
	MaxTokens int
	Clip      bool
	// MinTokens come before any stop string or id ends an output.
	MinTokens int
	// Stop are strings that end an output and are not part of its text.
	Stop []string
	// StopIDs are ids that end an output; the model's end-of-sequence ids are
	// among them unless IgnoreEOS.
	StopIDs   []int32
	IgnoreEOS bool
	// IncludeStop makes the stop string, or the stop token's text, part of the
	// text.
	IncludeStop bool
	// SkipSpecial leaves special tokens out of the text.
	SkipSpecial bool
	// Sampling's Seed counts only where Seeded; else one is drawn per prompt. Its
	// Choice is set here.
	Sampling sample.Params
	Seeded   bool
	// Logprobs and PromptLogprobs are as in serve.Request: −1 means none.
	Logprobs       int
	PromptLogprobs int
}

// LengthError is a prompt, or a prompt and the output asked for, that is longer
// than the model's context.
type LengthError struct {
	// Prompt and Output are in tokens; Output is 0 where no length was asked for.
	Prompt, Output int
	Limit          int
	// AtLeast says that the prompt has not been tokenized: Prompt is what it has at
	// least.
	AtLeast bool
}

func (e *LengthError) Error() string { return e.Text("prompt") }

// Text is the error in OpenAI's words, which clients look for; field is what the
// prompt is called: "prompt" or "messages".
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

// CheckLength refuses a text that is longer than the model's context whatever it
// says, without tokenizing it. The error is a *LengthError.
func (s *Service) CheckLength(text string) error {
	if least, limit := s.cfg.Tokenizer.LeastTokens(text), s.Context(); least > limit {
		return &LengthError{Prompt: least, Limit: limit, AtLeast: true}
	}
	return nil
}

// contextLimit is the most tokens that a sequence may have.
func contextLimit(l serve.Limits) int {
	if l.CacheTokens > 0 {
		return min(l.MaxModelLen, l.CacheTokens)
	}
	return l.MaxModelLen
}

// validate checks what does not depend on a single prompt.
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

// about says which of several prompts an error is about.
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

// budget is the number of output tokens that a prompt may have.
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
