package api

import (
	"context"
	"errors"
	"math"
	"net/http"

	"github.com/tandem-moe/tandem/serve/completion"
)

// chat answers /v1/chat/completions.
func (s *Server) chat(w http.ResponseWriter, r *http.Request) error {
	job, err := prepared(s, w, r, (*Parser).Chat, s.chatJob)
	if err != nil {
		return err
	}
	object := "chat.completion"
	if job.request.Stream {
		object = "chat.completion.chunk"
	}
	job.envelope = s.envelope(w, "chatcmpl-", object, &job.request.Sampling)
	return aboutMessages(s.run(w, r.Context(), job.asked, &job.request.Sampling, job))
}

// aboutMessages names the field of a chat that its prompt comes from.
func aboutMessages(err error) error {
	if err == nil {
		return nil
	}
	var long *completion.LengthError
	if errors.As(err, &long) {
		return tooLong("messages", long.Text("messages"))
	}
	e := *asError(err)
	if e.Param == "prompt" {
		e.Param = "messages"
	}
	return &e
}

// render is the conversation as the model reads it.
func (s *Server) render(ctx context.Context, c *Conversation) (string, error) {
	if s.cfg.Template == nil {
		return "", &Error{
			Status: http.StatusBadRequest, Type: "invalid_request_error", Param: "messages", Code: "no_chat_template",
			Message: "the model " + s.cfg.Models[0] + " has no chat template: use /v1/completions",
		}
	}
	limited, cancel := context.WithTimeout(ctx, s.cfg.Limits.Render)
	defer cancel()
	text, err := s.cfg.Template.Render(limited, s.templateInput(c))
	switch {
	case ctx.Err() != nil:
		return "", why(ctx, err)
	case err != nil && limited.Err() != nil:
		return "", invalid("messages", "the model's chat template takes longer than %v for the conversation",
			s.cfg.Limits.Render)
	}
	var answer *Error
	if errors.As(err, &answer) {
		return "", answer
	}
	if err != nil {
		return "", invalid("messages", "the model's chat template refuses the conversation: %v", err)
	}
	return text, nil
}

// templateInput are the template's variables for a conversation.
func (s *Server) templateInput(c *Conversation) TemplateInput {
	messages := make([]Raw, len(c.Messages))
	for i, m := range c.Messages {
		if m.Role == "developer" && s.cfg.MapDeveloper {
			m.as("system")
		}
		messages[i] = m.raw
	}
	in := TemplateInput{
		Messages: array(messages), Kwargs: c.TemplateKwargs,
		AddGenerationPrompt: c.generationPrompt(), ContinueFinalMessage: c.ContinueFinalMessage,
	}
	if len(c.Tools) > 0 {
		in.Tools = array(c.Tools)
	}
	return in
}

// as changes the message's role.
func (m *Message) as(role string) {
	var out Raw
	_ = rewrite(&out, m.raw, "role", func([]byte) ([]byte, error) { return quote(role), nil })
	m.Role, m.raw = role, out
}

// chatJob is a job of /v1/chat/completions.
type chatJob struct {
	envelope
	asked   completion.Request
	request *ChatRequest
	naming  naming
	ids     []int32
	started []bool
}

// chatJob prepares a request of /v1/chat/completions. Templates write special
// tokens themselves; more are added only where the client asks.
func (s *Server) chatJob(ctx context.Context, r *ChatRequest) (*chatJob, error) {
	if err := s.checkModel(r.Model); err != nil {
		return nil, err
	}
	asked, err := s.base(&r.Sampling)
	if err != nil {
		return nil, err
	}
	text, err := s.render(ctx, &r.Conversation)
	if err != nil {
		return nil, err
	}
	ids, err := s.encodeFitting(ctx, &r.Sampling, text, first(false, r.AddSpecialTokens))
	if err != nil {
		return nil, aboutMessages(err)
	}
	asked.Prompts = [][]int32{ids}
	if err := s.truncate(&r.Sampling, asked.Prompts, specials{}, first(1, r.MaxTokens)); err != nil {
		return nil, err
	}
	ids = asked.Prompts[0]
	asked.MaxTokens, asked.Clip = s.chatBudget(r)
	if r.Logprobs {
		asked.Logprobs = r.TopLogprobs
	}
	r.Conversation = Conversation{} // it is part of the body, which is not held while the model writes
	return &chatJob{
		asked: asked, request: r, ids: ids, naming: naming{s.cfg.Service.Tokenizer(), r.ReturnTokensAsTokenIDs},
		started: make([]bool, asked.N),
	}, nil
}

// chatBudget is the output's bound: the client's, which must fit, or the
// checkpoint's or none, cut to what fits.
func (s *Server) chatBudget(r *ChatRequest) (tokens int, clip bool) {
	if r.MaxTokens != nil {
		return *r.MaxTokens, false
	}
	return first(math.MaxInt32, s.cfg.Defaults.MaxNewTokens), true
}

func (j *chatJob) whole(choices []completion.Delta, u Raw) any {
	answer := ChatCompletion{envelope: j.envelope, Choices: make([]ChatChoice, len(choices)), Usage: u}
	if j.request.ReturnTokenIDs {
		answer.PromptTokenIDs = j.ids
	}
	for i := range choices {
		d := &choices[i]
		answer.Choices[i] = ChatChoice{
			Index: i, Message: ChatMessage{Role: "assistant", Content: d.Text}, Logprobs: j.logprobs(d),
			FinishReason: finishReason(d), StopReason: stopReason(d, j.request.StopTokenIDs),
			TokenIDs: tokenIDsOf(d.Tokens, j.request.ReturnTokenIDs),
		}
	}
	return answer
}

// chunks are a delta's events: a choice begins with one that names the role.
func (j *chatJob) chunks(d *completion.Delta, u Raw) []any {
	var out []any
	if !j.started[d.Choice] {
		j.started[d.Choice] = true
		opening := j.chunk(ChatChunkChoice{Index: d.Choice, Delta: ChatDelta{Role: "assistant", Content: new(string)}},
			u)
		if j.request.ReturnTokenIDs {
			opening.PromptTokenIDs = j.ids
		}
		out = append(out, opening)
	}
	choice := ChatChunkChoice{
		Index: d.Choice, Logprobs: j.logprobs(d),
		FinishReason: finishReason(d), StopReason: stopReason(d, j.request.StopTokenIDs),
		TokenIDs: tokenIDsOf(d.Tokens, j.request.ReturnTokenIDs),
	}
	if d.Text != "" {
		choice.Delta.Content = &d.Text
	}
	return append(out, j.chunk(choice, u))
}

func (j *chatJob) chunk(c ChatChunkChoice, u Raw) ChatChunk {
	return ChatChunk{envelope: j.envelope, Choices: []ChatChunkChoice{c}, Usage: u}
}

func (j *chatJob) usage(u Raw) any {
	return ChatChunk{envelope: j.envelope, Choices: []ChatChunkChoice{}, Usage: u}
}

func (j *chatJob) logprobs(d *completion.Delta) *ChatLogprobs {
	if !j.request.Logprobs {
		return nil
	}
	return j.naming.chatLogprobs(d.Tokens, j.request.TopLogprobs)
}
