package frontend

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tandem-moe/tandem/serve"
)

// ReportError is a report that no correct node of this version sends: the node must
// not be trusted with requests.
type ReportError struct {
	Node    string
	Request uint64
	Reason  string
}

func (e *ReportError) Error() string {
	return fmt.Sprintf("node %s reported of request %d what cannot be: %s", e.Node, e.Request, e.Reason)
}

// progress is what a request's node has reported so far.
type progress struct {
	output  []int32              // output tokens, beginning with those of the request itself
	prompt  []serve.TokenLogprob // the pieces so far of the first event's Prompt
	started bool                 // the first event is complete
}

// add checks a report against the request and the reports before, and says whether
// it completes an event. It returns the event as the client shall see it.
func (p *progress) add(r serve.Request, e serve.Event, more bool, vocabulary int) (whole serve.Event, complete bool, err error) {
	if err := p.checkPrompt(r, e, vocabulary); err != nil {
		return e, false, err
	}
	p.prompt = append(p.prompt, e.Prompt...)
	if more {
		return e, false, checkPiece(e)
	}
	if err := p.checkEvent(r, e, vocabulary); err != nil {
		return e, false, err
	}
	if !p.started && r.PromptLogprobs >= 0 && len(p.prompt) != len(r.Prompt) {
		return e, false, fmt.Errorf("log-probabilities of %d prompt tokens, it has %d", len(p.prompt), len(r.Prompt))
	}
	if e.HasToken {
		p.output = append(p.output, e.Token)
	}
	e.Prompt, p.prompt = p.prompt, nil
	if p.started {
		e.CachedTokens = 0 // the first event reported it, perhaps from another node
	}
	p.started = true
	return e, true, nil
}

// checkPiece checks a piece of an event, other than the last piece: it has at least
// one log-probability of the prompt, and nothing else.
func checkPiece(e serve.Event) error {
	if len(e.Prompt) == 0 || e.HasToken || e.Logprob != nil || e.CachedTokens != 0 || e.Finish != "" {
		return errors.New("a piece of an event that is not of the prompt")
	}
	return nil
}

// checkPrompt checks that an event's log-probabilities are of the prompt tokens that
// follow those of the pieces before.
func (p *progress) checkPrompt(r serve.Request, e serve.Event, vocabulary int) error {
	if len(e.Prompt) == 0 {
		return nil
	}
	before := len(p.prompt)
	if p.started || r.PromptLogprobs < 0 || before+len(e.Prompt) > len(r.Prompt) {
		return fmt.Errorf("log-probabilities of %d prompt tokens after %d, of a prompt of %d", len(e.Prompt), before, len(r.Prompt))
	}
	for i, l := range e.Prompt {
		if want := r.Prompt[before+i]; l.Token != want {
			return fmt.Errorf("the log-probability of token %d at place %d of the prompt, where %d is", l.Token, before+i, want)
		}
		if err := l.Check(r.PromptLogprobs, vocabulary); err != nil {
			return err
		}
	}
	return nil
}

// checkEvent checks an event except for its Prompt.
func (p *progress) checkEvent(r serve.Request, e serve.Event, vocabulary int) error {
	if e.CachedTokens < 0 || e.CachedTokens > len(r.Prompt) {
		return fmt.Errorf("%d cached tokens of a prompt of %d", e.CachedTokens, len(r.Prompt))
	}
	if e.HasToken {
		if err := p.checkToken(r, e, vocabulary); err != nil {
			return err
		}
	} else if e.Logprob != nil || e.Finish == "" {
		return errors.New("an event without a token that ends nothing")
	}
	return p.checkFinish(r, e)
}

// checkToken checks an event's token: it is the next one of the output.
func (p *progress) checkToken(r serve.Request, e serve.Event, vocabulary int) error {
	switch {
	case e.Index != len(p.output):
		return fmt.Errorf("output token %d, the next is %d", e.Index, len(p.output))
	case e.Index >= r.MaxTokens:
		return fmt.Errorf("output token %d of %d", e.Index, r.MaxTokens)
	case e.Token < 0 || int(e.Token) >= vocabulary:
		return fmt.Errorf("token %d of a vocabulary of %d", e.Token, vocabulary)
	case (e.Logprob != nil) != (r.Logprobs >= 0):
		return fmt.Errorf("a token with a log-probability: %v, asked for: %v", e.Logprob != nil, r.Logprobs >= 0)
	case e.Logprob == nil:
		return nil
	case e.Logprob.Token != e.Token:
		return fmt.Errorf("the log-probability of token %d with token %d", e.Logprob.Token, e.Token)
	}
	return e.Logprob.Check(r.Logprobs, vocabulary)
}

// checkFinish checks that the reason for the output's end, if it ends, is true.
func (p *progress) checkFinish(r serve.Request, e serve.Event) error {
	outputs := len(p.output)
	if e.HasToken {
		outputs++
	}
	switch e.Finish {
	case "":
		return nil
	case serve.FinishStop:
		if e.HasToken && slices.Contains(r.StopIDs, e.Token) {
			return nil
		}
	case serve.FinishLength:
		if outputs == r.MaxTokens {
			return nil
		}
	}
	return fmt.Errorf("an end for the reason %q after %d tokens of %d", e.Finish, outputs, r.MaxTokens)
}
