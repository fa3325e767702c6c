package batch

import (
	"fmt"
	"strings"
)

// Step is what a micro-batch computes next. The step and all slices in it belong to
// the batcher, and are valid until its Done or Abort.
type Step struct {
	MicroBatch int
	// Number counts the node's steps from 1.
	Number uint64
	// Tokens is the total number of rows.
	Tokens int
	// Seqs are the rows, one entry per sequence.
	Seqs []Rows
}

// Rows are consecutive tokens of one sequence.
type Rows struct {
	ID uint64
	// Tokens stand at the positions Pos, Pos+1, …; the keys and values of position
	// p lie in Pages[p / page tokens].
	Tokens []int32
	Pos    int
	Pages  []int32
	// Sample says that the sequence's next token is to be drawn from the last row's
	// logits; it is the output token with index Output.
	Sample bool
	Output int
	// Rows PromptLo to PromptHi−1 give the log-probabilities of the prompt tokens
	// that follow them. Each prompt token is asked for once.
	PromptLo, PromptHi int
	// Cached is how many of the prompt's tokens the cache held when the sequence
	// first started.
	Cached int
}

// Result is what the runtime drew from a sequence's rows in a step.
type Result struct {
	// Token is the sequence's next token, where Rows.Sample asked for one.
	Token int32
	// Stop says that Token ends the output.
	Stop bool
}

// Outcome is a sequence's state after a step.
type Outcome uint8

// Outcomes.
const (
	// Running: the sequence goes on.
	Running Outcome = iota
	// Stopped: the sequence has ended because its result said Stop.
	Stopped
	// Length: the sequence has ended because its output has MaxTokens tokens.
	Length
	// Cancelled: the sequence has ended, and its result was not used.
	Cancelled
)

func (o Outcome) String() string {
	return [...]string{"running", "stopped", "length", "cancelled"}[o]
}

// String prints the step, a line per sequence.
func (s *Step) String() string {
	var w strings.Builder
	fmt.Fprintf(&w, "step %d of micro-batch %d, rows %d", s.Number, s.MicroBatch, s.Tokens)
	for _, r := range s.Seqs {
		fmt.Fprintf(&w, "\n  %v", r)
	}
	return w.String()
}

// String prints the rows.
func (r Rows) String() string {
	s := fmt.Sprintf("seq %d: positions %d–%d, pages %v", r.ID, r.Pos, r.Pos+len(r.Tokens)-1, r.Pages)
	if r.Cached > 0 {
		s += fmt.Sprintf(", cached %d", r.Cached)
	}
	if r.PromptLo < r.PromptHi {
		s += fmt.Sprintf(", prompt rows %d–%d", r.PromptLo, r.PromptHi-1)
	}
	if r.Sample {
		s += fmt.Sprintf(", sample output %d", r.Output)
	}
	return s
}
