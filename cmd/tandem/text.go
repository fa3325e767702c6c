package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/chat"
	"github.com/tandem-moe/tandem/model/tokenizer"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/completion"
	"github.com/tandem-moe/tandem/serve/deploy"
	"github.com/tandem-moe/tandem/telemetry"
)

// text is the text side of a model: its tokenizer, chat template and defaults.
type text struct {
	tokens   *tokenizer.Tokenizer
	chat     *chat.Template // nil where the model has none
	defaults model.GenerationDefaults
	eos      []int32
	notes    []string
}

// openText reads a model's tokenizer, template and defaults.
func openText(m *deploy.Model) (*text, error) {
	t := &text{}
	var err error
	if t.tokens, err = tokenizer.LoadFS(m.Files); err != nil {
		return nil, fmt.Errorf("%s: %w", m.Source, err)
	}
	t.notes = append(t.notes, t.tokens.Notes()...)
	if n := t.tokens.VocabSize(); n > m.Spec.Vocabulary {
		t.notes = append(t.notes,
			fmt.Sprintf("the tokenizer has %d ids and the model's vocabulary %d: prompts with the ids in between are refused", n, m.Spec.Vocabulary))
	}
	if t.chat, err = chat.LoadFS(m.Files); err != nil && !errors.Is(err, chat.ErrNoTemplate) {
		return nil, fmt.Errorf("%s: %w", m.Source, err)
	}
	if t.chat != nil && t.chat.Unusable() != nil {
		t.notes = append(t.notes, t.chat.Unusable().Error()+"; chat is refused where it would be needed")
	}
	if t.defaults, err = model.ReadGeneration(m.Files, m.Spec); err != nil {
		return nil, fmt.Errorf("%s: %w", m.Source, err)
	}
	t.eos = t.ends(m.Spec)
	return t, nil
}

// ends are the ids that end an output: those of the model's files, and the
// tokenizer's eos_token, as vLLM has it.
func (t *text) ends(s *model.Spec) []int32 {
	ids := s.Ends(t.defaults)
	id, ok := t.tokens.Special("eos_token")
	if ok && int(id) < s.Vocabulary && !slices.Contains(ids, id) {
		ids = append(slices.Clone(ids), id)
	}
	return ids
}

// tell logs what an operator should know of the model's files.
func (t *text) tell(log *slog.Logger) {
	for _, note := range t.notes {
		log.Warn("the tokenizer or chat template differs from what the model asks for", "note", note)
	}
}

// service completes text on an engine; metrics may be nil.
func (t *text) service(engine serve.Engine, metrics *telemetry.Metrics) *completion.Service {
	c := completion.Config{Engine: engine, Tokenizer: completion.Of(t.tokens), EOS: t.eos}
	if metrics != nil {
		c.Observe = func(prompt int) completion.SequenceObserver { return metrics.Sequence(prompt) }
	}
	return completion.New(c)
}

// template is the model's chat template as the API wants it, nil where there is
// none.
func (t *text) template() api.Template {
	if t.chat == nil {
		return nil
	}
	return rendering{t.chat}
}

// rendering renders a conversation.
type rendering struct{ *chat.Template }

// Render implements api.Template.
func (r rendering) Render(ctx context.Context, in api.TemplateInput) (string, error) {
	text, err := r.Template.Render(ctx, chat.Input{
		Messages: in.Messages, Tools: in.Tools, Extra: in.Kwargs,
		AddGenerationPrompt: in.AddGenerationPrompt, ContinueFinal: in.ContinueFinalMessage,
	})
	answer := api.Error{Status: http.StatusBadRequest, Type: "invalid_request_error"}
	var unusable *chat.UnusableError
	switch {
	case errors.As(err, &unusable):
		answer.Param, answer.Code = "messages", "no_chat_template"
		answer.Message = unusable.Error() + "; use /v1/completions"
	case errors.Is(err, chat.ErrFinalMessage):
		answer.Param, answer.Message = "continue_final_message", "continue_final_message: "+err.Error()
	default:
		return text, err
	}
	return "", &answer
}
