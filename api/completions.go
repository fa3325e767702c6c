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
	job, err := prepared(s, w, r, (*Parser).Completion, s.textJob)
	if err != nil {
		return err
	}
	job.envelope = s.envelope(w, "cmpl-", "text_completion", &job.request.Sampling)
	return s.run(w, r.Context(), job.asked, &job.request.Sampling, job)
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
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run, err := s.cfg.Service.Start(ctx, asked)
	if err != nil {
		return why(ctx, err)
	}
	defer run.Close()
	defer accessOf(w).count(run)
	if r.Stream {
		events := newEventStream(w, s.cfg.Limits.Silence, cancel)
		defer events.close()
		return s.stream(events, accessOf(w), ctx, run, r, j)
	}
	choices, err := completion.Collect(run)
	if err != nil {
		return why(ctx, err)
	}
	writeJSON(w, http.StatusOK, j.whole(choices, usageOf(run.Usage())))
	return nil
}

// stream sends a run's deltas. What can be known of a request without computing it,
// that it is valid and has a place in the queue, is known by now: an error is an
// event, after which the connection closes without [DONE]. A client that has gone
// ends the stream.
func (s *Server) stream(events *eventStream, v *access, ctx context.Context, run *completion.Run, r *Sampling,
	j job) error {
	for {
		d, err := run.Next()
		switch {
		case errors.Is(err, io.EOF):
			if r.StreamOptions != nil && r.StreamOptions.IncludeUsage {
				events.send(j.usage(usageOf(run.Usage())))
			}
			events.done()
			return nil
		case err != nil:
			s.breakOff(events, v, why(ctx, err))
		}
		for _, chunk := range j.chunks(&d, r.StreamOptions.chunkUsage(run.Usage())) {
			events.send(chunk)
		}
		if events.abandoned() {
			v.failed = "the client has gone"
			return nil
		}
	}
}

// breakOff ends a stream with an error.
func (s *Server) breakOff(events *eventStream, v *access, err error) {
	e := asError(err)
	v.failed = e.Message
	if e.Status != clientClosed {
		s.cfg.Log.Warn("stream broken off", "status", e.Status, "error", err, "id", v.id)
	}
	events.send(e)
	panic(http.ErrAbortHandler)
}

// textJob is a job of /v1/completions.
type textJob struct {
	envelope
	asked   completion.Request
	request *CompletionRequest
	naming  naming
	ids     [][]int32
	// echoed is what comes before each prompt's outputs.
	echoed  []string
	started []bool
}

// textJob prepares a request of /v1/completions.
func (s *Server) textJob(ctx context.Context, r *CompletionRequest) (*textJob, error) {
	if err := s.checkModel(r.Model); err != nil {
		return nil, err
	}
	asked, err := s.base(&r.Sampling)
	if err != nil {
		return nil, err
	}
	ids, err := s.promptIDs(ctx, r)
	if err != nil {
		return nil, err
	}
	asked.Prompts = ids
	asked.MaxTokens, asked.Clip = r.maxTokens(), r.MaxTokens == nil
	if r.Logprobs != nil {
		asked.Logprobs = *r.Logprobs
	}
	j := &textJob{
		request: r, ids: ids, naming: naming{s.cfg.Service.Tokenizer(), r.ReturnTokensAsTokenIDs},
		echoed: make([]string, len(ids)), started: make([]bool, len(ids)*asked.N),
	}
	if r.Echo {
		asked.PromptLogprobs = asked.Logprobs
		j.echo(r.Prompt.Texts, asked.SkipSpecial)
	}
	j.asked = asked
	r.Prompt = Prompt{} // the request lives on while the model writes
	return j, nil
}

// promptIDs are the tokens of all prompts, cut where the request wants it.
func (s *Server) promptIDs(ctx context.Context, r *CompletionRequest) ([][]int32, error) {
	special := first(true, r.AddSpecialTokens)
	ids := r.Prompt.IDs
	for _, text := range r.Prompt.Texts {
		prompt, err := s.encodeFitting(ctx, &r.Sampling, text, special)
		if err != nil {
			return nil, err
		}
		ids = append(ids, prompt)
	}
	if r.Truncate == nil {
		return ids, nil
	}
	var around specials
	if len(r.Prompt.Texts) > 0 && special {
		empty, err := s.encode(ctx, "", true)
		if err != nil {
			return nil, err
		}
		around = specialsOf(ids[0], empty)
	}
	return ids, s.truncate(&r.Sampling, ids, around, r.maxTokens())
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
