package batch

import (
	"fmt"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/kvcache"
)

// Config is a batcher's policy.
type Config struct {
	// MicroBatches is how many steps may be in flight: while the experts compute
	// one, attention computes another. With 1, attention and experts idle in turn.
	MicroBatches int
	// MaxNumSeqs bounds the sequences that run at a time, in all micro-batches
	// together. Further requests wait.
	MaxNumSeqs int
	// MaxBatchedTokens bounds the rows of one step, and so the memory of its
	// activations. It is at least ⌈MaxNumSeqs / MicroBatches⌉, so that every
	// sequence of a micro-batch can decode. Larger steps prefill faster, and
	// decoding sequences wait longer for a token: at 2000 rows/s, steps of 512 rows
	// give each sequence a token every quarter of a second.
	MaxBatchedTokens int
	// ChunkTokens bounds the rows of one prompt in one step; 0 leaves it to
	// MaxBatchedTokens.
	ChunkTokens int
	// MaxWaiting bounds the waiting requests for which no place among the
	// MaxNumSeqs is free.
	MaxWaiting int
	// MaxModelLen bounds a request's prompt plus output, in tokens.
	MaxModelLen int
	// NoReuse computes every prompt from its beginning, even if a prefix is cached.
	NoReuse bool
	// Preempt forces preemptions, for tests.
	Preempt []Forced
}

// Forced preempts a sequence, even the oldest, after one of its own steps, unless
// that step ended it.
type Forced struct {
	// Sequence is the sequence's number among all submitted requests, from 0; Step
	// is the number of its own step, from 1.
	Sequence, Step int
}

// seqsPerMicroBatch is ⌈MaxNumSeqs / MicroBatches⌉.
func (c Config) seqsPerMicroBatch() int {
	return (c.MaxNumSeqs + c.MicroBatches - 1) / c.MicroBatches
}

func (c Config) validate() error {
	for _, f := range []struct {
		name string
		v    int
		min  int
	}{
		{"MicroBatches", c.MicroBatches, 1},
		{"MaxNumSeqs", c.MaxNumSeqs, 1},
		{"ChunkTokens", c.ChunkTokens, 0},
		{"MaxWaiting", c.MaxWaiting, 0},
		{"MaxModelLen", c.MaxModelLen, 1},
	} {
		if f.v < f.min {
			return fmt.Errorf("batch: %s is %d, the least is %d", f.name, f.v, f.min)
		}
	}
	if n := c.seqsPerMicroBatch(); c.MaxBatchedTokens < n {
		return fmt.Errorf("batch: MaxBatchedTokens is %d, but a micro-batch may have %d sequences", c.MaxBatchedTokens, n)
	}
	return nil
}

// Request is a sequence to continue.
type Request struct {
	ID     uint64
	Prompt []int32
	// Output holds a resumed request's tokens that were generated before.
	Output []int32
	// MaxTokens bounds the output in tokens, Output included.
	MaxTokens int
	// PromptLogprobs asks for the logits of every prompt token; then no cached
	// prefix is reused. A resumed request with output already got them, and
	// gets none.
	PromptLogprobs bool
}

// admissible returns why a request could not be served even alone, or nil.
func (c Config) admissible(r Request, cache *kvcache.Cache) error {
	total := len(r.Prompt) + r.MaxTokens
	switch {
	case len(r.Prompt) == 0:
		return &serve.InvalidError{Field: "Prompt", Reason: "it has no tokens"}
	case r.MaxTokens < 0:
		return &serve.InvalidError{Field: "MaxTokens", Reason: fmt.Sprintf("%d is negative", r.MaxTokens)}
	case len(r.Output) > r.MaxTokens:
		return &serve.InvalidError{Field: "Output", Reason: fmt.Sprintf("it has %d tokens, MaxTokens is %d", len(r.Output), r.MaxTokens)}
	case total > c.MaxModelLen:
		return &serve.InvalidError{Field: "MaxTokens", Reason: fmt.Sprintf("%d prompt tokens and %d output tokens are %d, the model's length is %d",
			len(r.Prompt), r.MaxTokens, total, c.MaxModelLen)}
	case total > cache.Tokens():
		return &serve.InvalidError{Field: "MaxTokens", Reason: fmt.Sprintf("%d prompt tokens and %d output tokens are %d, the KV cache holds %d",
			len(r.Prompt), r.MaxTokens, total, cache.Tokens())}
	}
	return nil
}
