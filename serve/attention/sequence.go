package attention

import (
	"time"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/batch"
	"github.com/tandem-moe/tandem/serve/sample"
)

// sequence is a request on its attention node: what choosing its tokens needs.
// Which rows it has, the batcher knows.
type sequence struct {
	request serve.Request
	chain   sample.Chain
	counter sample.Counter
	outputs int // tokens, those of a resumed request among them
	prompt  []serve.TokenLogprob
	started bool // its first event is out
}

func newSequence(r serve.Request) *sequence {
	s := &sequence{request: r, chain: r.Sampling.Chain(), outputs: len(r.Output)}
	if r.MinTokens > 0 && len(r.StopIDs) > 0 {
		s.chain.Processors = append(s.chain.Processors, sample.Forbid{Tokens: r.StopIDs, Until: r.MinTokens})
	}
	s.counter.Reset(r.Prompt, r.Output)
	if r.PromptLogprobs >= 0 && len(r.Output) == 0 {
		s.prompt = []serve.TokenLogprob{{Logprob: serve.Logprob{Token: r.Prompt[0]}}}
	}
	return s
}

// begin queues a request, unless those before it have waited in vain for expert nodes.
func (n *Node) begin(r serve.Request) error {
	if err := n.pairs.Expired(time.Now()); err != nil {
		return unavailable(err)
	}
	err := n.batcher.Submit(batch.Request{
		ID: r.ID, Prompt: r.Prompt, Output: r.Output, MaxTokens: r.MaxTokens, PromptLogprobs: r.PromptLogprobs >= 0,
	})
	if err != nil {
		return err
	}
	n.sequences[r.ID] = newSequence(r)
	return nil
}

// cancelled ends a request for good; a step that it is in is finished without
// it.
func (n *Node) cancelled(id uint64) {
	n.batcher.Cancel(id)
	delete(n.sequences, id)
}

// event is the next report of a sequence: a token, the end, or both.
func (s *sequence) event(rows batch.Rows, p picked, o batch.Outcome) serve.Event {
	e := serve.Event{}
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
		e.Finish = serve.FinishStop
	case batch.Length:
		e.Finish = serve.FinishLength
	}
	return e
}
