package main

import (
	"context"
	"errors"
	"fmt"

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
}

// openText reads a model's tokenizer, template and defaults.
func openText(m *deploy.Model) (*text, error) {
	t := &text{}
	var err error
	if t.tokens, err = tokenizer.LoadFS(m.Files); err != nil {
		return nil, fmt.Errorf("%s: %w", m.Source, err)
	}
	if n := t.tokens.VocabSize(); n > m.Spec.Vocabulary {
		return nil, fmt.Errorf("%s: the tokenizer has %d ids, the model's vocabulary %d", m.Source, n, m.Spec.Vocabulary)
	}
	if t.chat, err = chat.LoadFS(m.Files); err != nil && !errors.Is(err, chat.ErrNoTemplate) {
		return nil, fmt.Errorf("%s: %w", m.Source, err)
	}
	if t.defaults, err = model.ReadGeneration(m.Files, m.Spec); err != nil {
		return nil, fmt.Errorf("%s: %w", m.Source, err)
	}
	t.eos = m.Spec.Ends(t.defaults)
	return t, nil
}

// service completes text on an engine; metrics may be nil.
func (t *text) service(engine serve.Engine, metrics *telemetry.Metrics) *completion.Service {
	c := completion.Config{Engine: engine, Tokenizer: tokens{t.tokens}, EOS: t.eos}
	if metrics != nil {
		c.Observe = func(prompt int) completion.SequenceObserver { return metrics.Sequence(prompt) }
	}
	return completion.New(c)
}

// tokens is a tokenizer as completion wants it.
type tokens struct{ *tokenizer.Tokenizer }

// NewStream decodes ids one at a time.
func (t tokens) NewStream(skipSpecial bool) completion.TextStream {
	return t.Tokenizer.NewStream(skipSpecial)
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
	return r.Template.Render(ctx, chat.Input{
		Messages: in.Messages, Tools: in.Tools, Extra: in.Kwargs, AddGenerationPrompt: in.AddGenerationPrompt,
	})
}
