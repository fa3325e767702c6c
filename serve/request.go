package serve

import (
	"context"
	"errors"
	"fmt"

	"github.com/tandem-moe/tandem/serve/sample"
)

// Request is one sequence to continue, with all that is needed to resume it on
// another node: prompt and output tokens, sampling parameters and seed.
type Request struct {
	// ID is unique among the requests of the front end, which assigns it.
	ID     uint64
	Prompt []int32
	// Output holds tokens generated earlier: a resumed request continues after
	// them, with positions, penalties and usage unchanged.
	Output []int32
	// MaxTokens bounds the output in tokens; with 0, only the prompt is computed, for
	// its log-probabilities.
	MaxTokens int
	// MinTokens is the number of output tokens before which no stop id is drawn.
	MinTokens int
	// StopIDs are the tokens that end the output; the one drawn is part of it.
	StopIDs  []int32
	Sampling sample.Params
	// Logprobs asks for the log-probability of each output token and of so many best
	// candidates in its place; −1 asks for none. Log-probabilities are those before
	// temperature and penalties.
	Logprobs int
	// PromptLogprobs asks the same for the prompt's tokens from the second on; such a
	// request reuses no cached prefix.
	PromptLogprobs int
}

// Bounds of a request beside those of the model. Each stop id and each bias costs
// time for every token.
const (
	// MaxStopIDs bounds StopIDs: the API's 256 and the model's own fit.
	MaxStopIDs = 1 << 10
	// MaxBiases bounds the tokens of Sampling.LogitBias.
	MaxBiases = 1 << 15
)

// Logprob is a token and the natural logarithm of its probability.
type Logprob struct {
	Token   int32
	Logprob float32
}

// TokenLogprob is a token's own log-probability and those of the best candidates in
// its place, best first.
type TokenLogprob struct {
	Logprob
	Top []Logprob
}

// FinishReason says why an output ended, in OpenAI's words.
type FinishReason string

// Reasons.
const (
	FinishStop   FinishReason = "stop"   // a stop id was drawn
	FinishLength FinishReason = "length" // the output has MaxTokens tokens
)

// Event is what a [Stream] yields: one output token, or the end without a token.
type Event struct {
	// Token and its position in the output, Index, are valid where HasToken.
	HasToken bool
	Token    int32
	Index    int
	Logprob  *TokenLogprob
	// Prompt is set in the first event of a request with PromptLogprobs: one
	// entry per prompt token, the first without a value (Token only).
	Prompt []TokenLogprob
	// CachedTokens is how many prompt tokens were in a cached prefix and not computed
	// again; set in the first event.
	CachedTokens int
	// Finish is set in the last event, and "" in the others.
	Finish FinishReason
}

// Stream is the output of one request.
type Stream interface {
	// Next returns the next event, io.EOF after the last one, or the error that
	// ended the request.
	Next(ctx context.Context) (Event, error)
	// Close cancels the request if it still runs. It may be called twice.
	Close()
}

// Limits are what an engine accepts.
type Limits struct {
	Vocabulary int
	// MaxModelLen bounds prompt plus output, in tokens.
	MaxModelLen int
	// CacheTokens is the size of the KV cache in tokens: the largest one, where the
	// engine has several attention nodes.
	CacheTokens int
}

// Engine continues sequences of tokens. It knows no text.
type Engine interface {
	Limits() Limits
	// Submit validates and queues a request. Errors: *InvalidError, *BusyError,
	// *UnavailableError.
	Submit(ctx context.Context, r Request) (Stream, error)
}

// InvalidError says that a request can never be served: the caller's mistake. Field
// names the field of [Request] ("Prompt", "MaxTokens", …).
type InvalidError struct {
	Field  string
	Reason string
}

func (e *InvalidError) Error() string { return fmt.Sprintf("%s: %s", e.Field, e.Reason) }

// BusyError says that the queue of requests is full; the caller may retry.
type BusyError struct {
	Waiting, Limit int
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("the queue is full: %d requests wait, the limit is %d", e.Waiting, e.Limit)
}

// UnavailableError says that the cluster cannot serve the request now: nodes are
// missing, or the node that had the request was lost.
type UnavailableError struct{ Reason string }

func (e *UnavailableError) Error() string { return e.Reason }

// ErrNotFinite ends a request whose logits are not finite.
var ErrNotFinite = errors.New("the model's logits are not finite")
