package frontend

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tandem-moe/tandem/serve"
)

// ReportError is a report that no node of this version sends: the node is not to be
// trusted with requests.
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
	output  []int32              // tokens, with those that came with the request
	prompt  []serve.TokenLogprob // of the first event, as far as its pieces are here
	started bool                 // its first event is complete
}

// add holds a report against the request and what was reported before, and says
// whether it completes an event. What it returns is the event as a client sees it.
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
		e.CachedTokens = 0 // told before, by the node that had the request first
	}
	p.started = true
	return e, true, nil
}

// checkPiece checks a piece of an event that is not its last: it has log-probabilities
// of the prompt, one at least, and nothing else.
func checkPiece(e serve.Event) error {
	if len(e.Prompt) == 0 || e.HasToken || e.Logprob != nil || e.CachedTokens != 0 || e.Finish != "" {
		return errors.New("a piece of an event that is not of the prompt")
	}
	return nil
}

// checkPrompt checks log-probabilities of a prompt: those of the tokens after the
// ones that were there before.
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

// checkEvent checks all of an event but its prompt.
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

// checkToken checks the next token of an output.
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

// checkFinish checks that the output ends for a reason that holds.
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
