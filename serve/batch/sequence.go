package batch

import (
	"slices"

	"github.com/tandem-moe/tandem/serve/kvcache"
)

// sequence is a request in the batcher.
type sequence struct {
	id             uint64
	arrival        int // counts submitted requests
	tokens         []int32
	prompt         int // length of the prompt, with which tokens begins
	maxTokens      int
	promptLogprobs bool
	keys           []kvcache.Key // keys of the first full pages of tokens, grown when needed

	microBatch int // −1 while it waits
	computed   int // number of tokens whose keys and values are in its pages
	inFlight   int // number of tokens after those that the current step computes
	steps      int // number of steps that computed rows of it
	lost       int // computed at its last preemption
	cached     int // number of prompt tokens found in the cache at its first start; −1 before
	reported   int // number of prompt rows whose log-probabilities, if asked for, are out
	cancelled  bool
}

func newSequence(r Request, arrival int) *sequence {
	s := &sequence{
		id: r.ID, arrival: arrival, tokens: slices.Concat(r.Prompt, r.Output), prompt: len(r.Prompt),
		maxTokens: r.MaxTokens, promptLogprobs: r.PromptLogprobs, microBatch: -1, cached: -1,
	}
	if len(r.Output) > 0 {
		s.reported = s.promptRows()
	}
	return s
}

// left is how many tokens must be computed before the next one can be drawn: 1
// while decoding.
func (s *sequence) left() int { return len(s.tokens) - s.computed }

func (s *sequence) outputs() int { return len(s.tokens) - s.prompt }

// promptRows is how many prompt rows give the log-probability of a prompt token:
// all but the last, whose successor is the first output token.
func (s *sequence) promptRows() int { return s.prompt - 1 }

func (s *sequence) needsPrompt() bool { return s.promptLogprobs && s.reported < s.promptRows() }

// rows describes a step's computation of the sequence's next n tokens.
func (s *sequence) rows(n int, pages []int32) Rows {
	lo, hi := s.computed, s.computed+n
	r := Rows{
		ID: s.id, Tokens: s.tokens[lo:hi], Pos: lo, Pages: pages, Cached: s.cached,
		Sample: hi == len(s.tokens) && s.outputs() < s.maxTokens, Output: s.outputs(),
	}
	if s.needsPrompt() {
		r.PromptLo = max(s.reported, lo) - lo
		r.PromptHi = max(min(s.promptRows(), hi)-lo, r.PromptLo)
	}
	return r
}

// insert puts s into a list in order of arrival.
func insert(list []*sequence, s *sequence) []*sequence {
	i, _ := slices.BinarySearchFunc(list, s, byArrival)
	return slices.Insert(list, i, s)
}

// remove takes s out of a list in order of arrival.
func remove(list []*sequence, s *sequence) []*sequence {
	i, ok := slices.BinarySearchFunc(list, s, byArrival)
	if !ok {
		panic("batch: a sequence is not in its list")
	}
	return slices.Delete(list, i, i+1)
}

func byArrival(a, b *sequence) int { return a.arrival - b.arrival }
