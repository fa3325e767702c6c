package attention

import (
	"time"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/batch"
	"github.com/tandem-moe/tandem/serve/sample"
)

// sequence is what an attention node keeps of a request to choose its tokens. The
// batcher keeps the request's rows and pages.
type sequence struct {
	request serve.Request
	chain   sample.Chain
	counter sample.Counter
	outputs int // number of output tokens, including those a resumed request came with
	prompt  []serve.TokenLogprob
	started bool // its first event has been reported
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

// begin queues a request, unless earlier requests have waited in vain for expert nodes.
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

// cancelled ends a request. A step that it is in finishes without using its result.
func (n *Node) cancelled(id uint64) {
	n.batcher.Cancel(id)
	delete(n.sequences, id)
}

// event makes a sequence's next event: a token, the end, or both.
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
