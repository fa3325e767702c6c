package serve

import (
	"errors"

	"github.com/tandem-moe/tandem/serve/batch"
	"github.com/tandem-moe/tandem/serve/sample"
)

// sequence is a request on its attention node: what choosing its tokens needs.
// Which rows it has, the batcher knows.
type sequence struct {
	request Request
	chain   sample.Chain
	counter sample.Counter
	outputs int // tokens, those of a resumed request among them
	prompt  []TokenLogprob
	started bool // its first event is out
}

func newSequence(r Request) *sequence {
	s := &sequence{request: r, chain: r.Sampling.Chain(), outputs: len(r.Output)}
	if r.MinTokens > 0 && len(r.StopIDs) > 0 {
		s.chain.Processors = append(s.chain.Processors, sample.Forbid{Tokens: r.StopIDs, Until: r.MinTokens})
	}
	s.counter.Reset(r.Prompt, r.Output)
	if r.PromptLogprobs >= 0 && len(r.Output) == 0 {
		s.prompt = []TokenLogprob{{Logprob: Logprob{Token: r.Prompt[0]}}}
	}
	return s
}

// begin queues a request.
func (n *AttentionNode) begin(r Request) error {
	err := n.batcher.Submit(batch.Request{
		ID: r.ID, Prompt: r.Prompt, Output: r.Output, MaxTokens: r.MaxTokens, PromptLogprobs: r.PromptLogprobs >= 0,
	})
	var invalid *batch.InvalidError
	var busy *batch.BusyError
	switch {
	case errors.As(err, &invalid):
		return &InvalidError{Field: invalid.Field, Reason: invalid.Reason}
	case errors.As(err, &busy):
		return &BusyError{Waiting: busy.Waiting, Limit: busy.Limit}
	case err != nil:
		return err
	}
	n.sequences[r.ID] = newSequence(r)
	return nil
}

// cancelled ends a request for good; a step that it is in is finished without
// it.
func (n *AttentionNode) cancelled(id uint64) {
	n.batcher.Cancel(id)
	delete(n.sequences, id)
}

// event is the next report of a sequence: a token, the end, or both.
func (s *sequence) event(rows batch.Rows, p picked, o batch.Outcome) Event {
	e := Event{}
	if !s.started {
		s.started = true
		e.CachedTokens, e.Prompt = rows.Cached, s.prompt
		s.prompt = nil
	}
	if rows.Sample {
		e.HasToken, e.Token, e.Index, e.Logprob = true, p.token, rows.Output, p.logprob
		s.outputs++
		s.counter.Add(p.token)
	}
	switch o {
	case batch.Stopped:
		e.Finish = FinishStop
	case batch.Length:
		e.Finish = FinishLength
	}
	return e
}
