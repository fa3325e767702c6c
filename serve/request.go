package serve

import (
	"context"
	"errors"
	"fmt"

	"github.com/tandem-moe/tandem/serve/sample"
)

// Request is one sequence to continue, and all that is needed to resume it on
// another node: prompt and output ids, sampling parameters and seed.
type Request struct {
	// ID is unique in the front end.
	ID     uint64
	Prompt []int32
	// Output holds tokens generated earlier: a resumed request continues after
	// them, with positions, penalties and usage unchanged.
	Output []int32
	// MaxTokens bounds the output; 0 computes the prompt alone, for its
	// log-probabilities.
	MaxTokens int
	MinTokens int
	// StopIDs end the output; the stopping token is part of it.
	StopIDs  []int32
	Sampling sample.Params
	// Logprobs asks for the log-probability of each output token and of the
	// Logprobs best candidates; -1 means none. Taken before temperature and
	// penalties.
	Logprobs int
	// PromptLogprobs asks the same of the prompt's own tokens (from the second
	// on); such a request reuses no cached prefix.
	PromptLogprobs int
}

// Bounds of a request, beside those of the model: each costs time for every token.
const (
	// MaxStopIDs are the API's 256 and a model's own.
	MaxStopIDs = 1 << 10
	// MaxBiases are the tokens of Sampling.LogitBias.
	MaxBiases = 1 << 15
)

// Logprob is a token and the natural logarithm of its probability.
type Logprob struct {
	Token   int32
	Logprob float32
}

// TokenLogprob is a token's own log-probability and the best candidates in its
// place, best first.
type TokenLogprob struct {
	Logprob
	Top []Logprob
}

// FinishReason says why an output ended, in OpenAI's words.
type FinishReason string

// Reasons.
const (
	FinishStop   FinishReason = "stop"
	FinishLength FinishReason = "length"
)

// Event is what a Stream yields: one output token, or the end.
type Event struct {
	// Token is valid where HasToken; Index is its position in the output.
	HasToken bool
	Token    int32
	Index    int
	Logprob  *TokenLogprob
	// Prompt is set in the first event of a request with PromptLogprobs: one
	// entry per prompt token, the first without a value (Token only).
	Prompt []TokenLogprob
	// CachedTokens is how many prompt tokens a cached prefix saved; set in the
	// first event.
	CachedTokens int
	// Finish is set in the last event.
	Finish FinishReason
}

// Stream is the output of one request.
type Stream interface {
	// Next returns the next event, io.EOF after the last one, or the error that
	// ended the request.
	Next(ctx context.Context) (Event, error)
	// Close cancels the request where it still runs. It may be called twice.
	Close()
}

// Limits are what an engine accepts.
type Limits struct {
	Vocabulary int
	// MaxModelLen bounds prompt plus output, in tokens.
	MaxModelLen int
	// CacheTokens is the KV cache of the largest attention node, in tokens.
	CacheTokens int
}

// Engine continues sequences of tokens. It knows no text.
type Engine interface {
	Limits() Limits
	// Submit validates and queues a request. Errors: *InvalidError, *BusyError,
	// *UnavailableError.
	Submit(ctx context.Context, r Request) (Stream, error)
}

// InvalidError is a request that can never be served: the caller's mistake.
// Field is a field of Request ("Prompt", "MaxTokens", …).
type InvalidError struct {
	Field  string
	Reason string
}

func (e *InvalidError) Error() string { return fmt.Sprintf("%s: %s", e.Field, e.Reason) }

// BusyError is a full queue: the caller may retry.
type BusyError struct {
	Waiting, Limit int
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("the queue is full: %d requests wait, the limit is %d", e.Waiting, e.Limit)
}

// UnavailableError is a cluster that cannot serve now: nodes are missing or one
// that held the request was lost.
type UnavailableError struct{ Reason string }

func (e *UnavailableError) Error() string { return e.Reason }

// ErrNotFinite ends a request whose logits are not finite.
var ErrNotFinite = errors.New("the model's logits are not finite")
