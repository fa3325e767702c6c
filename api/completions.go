package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"unicode/utf8"

	"github.com/tandem-moe/tandem/serve/completion"
)

// completions answers /v1/completions.
func (s *Server) completions(w http.ResponseWriter, r *http.Request) error {
	request, err := readBody(s, w, r, (*Parser).Completion)
	if err != nil {
		return err
	}
	if err := s.checkModel(request.Model); err != nil {
		return err
	}
	job, asked, err := s.textJob(request)
	if err != nil {
		return err
	}
	job.envelope = s.envelope(w, r, "cmpl-", "text_completion", &request.Sampling)
	return s.run(w, r.Context(), asked, &request.Sampling, job)
}

// job turns deltas into answers of one of the two kinds.
type job interface {
	// whole is the answer that is not streamed.
	whole(choices []completion.Delta, u Raw) any
	// chunks are the events for a delta.
	chunks(d *completion.Delta, u Raw) []any
	// usage is the last event, where usage was asked for.
	usage(u Raw) any
}

// run serves a request, streamed or not.
func (s *Server) run(w http.ResponseWriter, ctx context.Context, asked completion.Request, r *Sampling, j job) error {
	run, err := s.cfg.Service.Start(ctx, asked)
	if err != nil {
		return why(ctx, err)
	}
	defer run.Close()
	if r.Stream {
		return s.stream(w, ctx, run, r, j)
	}
	choices, err := completion.Collect(run)
	if err != nil {
		return why(ctx, err)
	}
	writeJSON(w, http.StatusOK, j.whole(choices, usageOf(run.Usage())))
	return nil
}

// stream sends a run's deltas. An error before the first has gone out is
// returned; later it is an event, after which the connection closes without
// [DONE]. A client that has gone ends the stream.
func (s *Server) stream(w http.ResponseWriter, ctx context.Context, run *completion.Run, r *Sampling, j job) error {
	events := newEventStream(w)
	for {
		d, err := run.Next()
		switch {
		case errors.Is(err, io.EOF):
			if r.StreamOptions != nil && r.StreamOptions.IncludeUsage {
				events.send(j.usage(usageOf(run.Usage())))
			}
			events.done()
			return nil
		case err != nil && !events.begun:
			return why(ctx, err)
		case err != nil:
			s.breakOff(events, why(ctx, err))
		}
		for _, chunk := range j.chunks(&d, r.StreamOptions.chunkUsage(run.Usage())) {
			events.send(chunk)
		}
		if events.gone {
			return nil
		}
	}
}

// breakOff ends a stream with an error.
func (s *Server) breakOff(events *eventStream, err error) {
	e := asError(err)
	s.cfg.Log.Warn("stream broken off", "status", e.Status, "error", err)
	events.send(e)
	panic(http.ErrAbortHandler)
}

// textJob is a job of /v1/completions.
type textJob struct {
	envelope
	request *CompletionRequest
	naming  naming
	ids     [][]int32
	// echoed is what comes before each prompt's outputs.
	echoed  []string
	started []bool
}

// textJob prepares a request of /v1/completions.
func (s *Server) textJob(r *CompletionRequest) (*textJob, completion.Request, error) {
	asked, err := s.base(&r.Sampling)
	if err != nil {
		return nil, asked, err
	}
	tokenizer := s.cfg.Service.Tokenizer()
	ids, texts := r.Prompt.IDs, r.Prompt.Texts
	for _, text := range texts {
		ids = append(ids, tokenizer.Encode(text, first(true, r.AddSpecialTokens)))
	}
	if err := s.truncate(&r.Sampling, ids, s.specials(texts, r.AddSpecialTokens), r.maxTokens()); err != nil {
		return nil, asked, err
	}
	asked.Prompts = ids
	asked.MaxTokens, asked.Clip = r.maxTokens(), r.MaxTokens == nil
	if r.Logprobs != nil {
		asked.Logprobs = *r.Logprobs
	}
	j := &textJob{
		request: r, ids: ids, naming: naming{tokenizer, r.ReturnTokensAsTokenIDs},
		echoed: make([]string, len(ids)), started: make([]bool, len(ids)*asked.N),
	}
	if r.Echo {
		asked.PromptLogprobs = asked.Logprobs
		j.echo(texts, asked.SkipSpecial)
	}
	r.Prompt = Prompt{} // the request lives on while the model writes
	return j, asked, nil
}

// specials are those around the first of some texts.
func (s *Server) specials(texts []string, add *bool) specials {
	if texts == nil || !first(true, add) {
		return specials{}
	}
	tokenizer := s.cfg.Service.Tokenizer()
	return specialsOf(tokenizer.Encode(texts[0], true), tokenizer.Encode("", true))
}

// echo fills echoed.
func (j *textJob) echo(texts []string, skipSpecial bool) {
	for i := range j.echoed {
		if texts != nil && j.request.Truncate == nil {
			j.echoed[i] = texts[i]
		} else {
			j.echoed[i] = j.naming.tokenizer.Decode(j.ids[i], skipSpecial)
		}
	}
}

func (j *textJob) whole(choices []completion.Delta, u Raw) any {
	answer := TextCompletion{envelope: j.envelope, Choices: make([]TextChoice, len(choices)), Usage: u}
	for i := range choices {
		answer.Choices[i] = j.choice(&choices[i])
	}
	return answer
}

func (j *textJob) chunks(d *completion.Delta, u Raw) []any {
	return []any{TextCompletion{envelope: j.envelope, Choices: []TextChoice{j.choice(d)}, Usage: u}}
}

func (j *textJob) usage(u Raw) any {
	return TextCompletion{envelope: j.envelope, Choices: []TextChoice{}, Usage: u}
}

// choice is a delta as a choice; a choice's first one has the prompt, where it is
// asked for.
func (j *textJob) choice(d *completion.Delta) TextChoice {
	r := j.request
	index := d.Prompt*r.choices() + d.Choice
	c := TextChoice{
		Index: index, Text: d.Text, Logprobs: j.logprobs(d),
		FinishReason: finishReason(d), StopReason: stopReason(d, r.StopTokenIDs),
		TokenIDs: tokenIDsOf(d.Tokens, r.ReturnTokenIDs),
	}
	if !j.started[index] {
		j.started[index] = true
		c.Text = j.echoed[d.Prompt] + d.Text
		if r.ReturnTokenIDs {
			c.PromptTokenIDs = j.ids[d.Prompt]
		}
	}
	return c
}

func (j *textJob) logprobs(d *completion.Delta) *TextLogprobs {
	if j.request.Logprobs == nil {
		return nil
	}
	own := j.naming.textLogprobs(d.Tokens, utf8.RuneCountInString(j.echoed[d.Prompt]), *j.request.Logprobs)
	if d.PromptTokens == nil {
		return own
	}
	return j.naming.textLogprobs(d.PromptTokens, 0, *j.request.Logprobs).append(own)
}
