package batch

import (
	"fmt"
	"strings"
)

// Step is what a micro-batch computes next. It and all that it refers to belong
// to the batcher, and are valid until the step's Done or Abort.
type Step struct {
	MicroBatch int
	// Number counts the node's steps from 1.
	Number uint64
	// Tokens is the number of rows.
	Tokens int
	// Seqs are the rows, sequence by sequence, each sequence once.
	Seqs []Rows
}

// Rows are consecutive tokens of one sequence.
type Rows struct {
	ID uint64
	// Tokens are fed at the positions Pos, Pos+1, …; position p lies in
	// Pages[p / page tokens].
	Tokens []int32
	Pos    int
	Pages  []int32
	// Sample says that the last row's logits choose the sequence's next token,
	// at position Output of its output.
	Sample bool
	Output int
	// PromptLo and PromptHi bound the rows whose logits give the
	// log-probability of the prompt token after theirs, each asked for once.
	PromptLo, PromptHi int
	// Cached is how many of the prompt's tokens the cache held at the start.
	Cached int
}

// Result is what the runtime made of a sequence's rows in a step.
type Result struct {
	// Token is the next token, where Rows.Sample asked for one.
	Token int32
	// Stop says that this token ends the output.
	Stop bool
}

// Outcome is what a step meant for a sequence.
type Outcome uint8

// Outcomes.
const (
	// Running goes on.
	Running Outcome = iota
	// Stopped has ended because the result said so.
	Stopped
	// Length has ended because the output has MaxTokens tokens.
	Length
	// Cancelled has ended; its result was not used.
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
