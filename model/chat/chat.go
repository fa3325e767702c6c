// Package chat owns the way from a conversation to the text that a model
// continues: the checkpoint's own chat template, with the variables that Hugging
// Face's transformers gives it. It may not know tokens, models or HTTP.
package chat

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/tandem-moe/tandem/model/chat/jinja"
)

// ErrNoTemplate says that a checkpoint has no chat template.
var ErrNoTemplate = errors.New("the model has no chat template")

// ErrFinalMessage says that a rendered conversation does not have its last message
// in it, so that it cannot be continued.
var ErrFinalMessage = errors.New("the chat template changes the last message, so that it cannot be found")

// UnusableError says that a checkpoint has a chat template that cannot be used.
type UnusableError struct{ Reason error }

func (e *UnusableError) Error() string {
	return fmt.Sprintf("the model's chat template cannot be used: %v", e.Reason)
}

func (e *UnusableError) Unwrap() error { return e.Reason }

// Template is a checkpoint's chat template. It is safe for concurrent use.
type Template struct {
	// Now is the clock of strftime_now; nil: time.Now.
	Now func() time.Time

	plain    *variant // nil: there is none for conversations without tools
	tools    *variant // for conversations with tools; nil: plain
	unusable error    // why plain is nil
	specials *jinja.Dict
	// strftime formats a time; tests replace it.
	strftime func(t time.Time, format string) (string, error)
}

// Special is a special token that templates can name: bos_token, "<s>".
type Special struct{ Name, Text string }

// newTemplate parses a folder's templates. One that cannot be parsed is unusable,
// and the other stays.
func newTemplate(src source) *Template {
	t := &Template{specials: jinja.NewDict(), strftime: strftime, unusable: src.unusable}
	for _, s := range src.specials {
		t.specials.Set(s.Name, s.Text)
	}
	var err error
	if src.plain != nil {
		if t.plain, err = newVariant(*src.plain); err != nil {
			t.unusable = err
		}
	}
	if src.tools != nil {
		if t.tools, err = newVariant(*src.tools); err != nil {
			t.tools, t.unusable = nil, fmt.Errorf("the one for tools: %w", err)
		}
	}
	return t
}

// Unusable says why conversations, or some of them, cannot be rendered; nil: they
// can. It is an *UnusableError.
func (t *Template) Unusable() error {
	if t.unusable == nil {
		return nil
	}
	return &UnusableError{t.unusable}
}

// LoadFS reads the template in a model's folder. The error is ErrNoTemplate where
// there is none. One that cannot be used is no error yet: Unusable says so, and
// Render.
func LoadFS(dir fs.FS) (*Template, error) {
	src, err := readSource(dir)
	if err != nil {
		return nil, err
	}
	return newTemplate(src), nil
}

// Input is a conversation. JSON keeps the order of its fields.
type Input struct {
	// Messages is a list of objects. A field that is null is as if it were not
	// there.
	Messages json.RawMessage
	// Tools and Documents are lists of objects; nil: none.
	Tools, Documents json.RawMessage
	// AddGenerationPrompt asks for what begins the model's answer.
	AddGenerationPrompt bool
	// ContinueFinal cuts the text behind the last message, so that the model goes
	// on with that. The error is ErrFinalMessage where the template changes it.
	ContinueFinal bool
	// Extra is an object of further variables; nil: none.
	Extra json.RawMessage
}

// Render returns the text of a conversation. The error is a *jinja.Error where
// the template refuses it, an *UnusableError where there is none for it, and wraps
// the context's where that ends first.
//
// Like transformers it gives the template None for tools and documents where
// there are none. Some templates stumble over that, so that one that fails, and
// does not refuse the conversation itself, gets another try without these
// variables.
func (t *Template) Render(ctx context.Context, in Input) (string, error) {
	template, err := t.choose(in)
	if err != nil {
		return "", err
	}
	vars, final, err := t.variables(in, template)
	if err != nil {
		return "", err
	}
	text, err := t.attempt(ctx, template, vars)
	if err != nil || !in.ContinueFinal {
		return text, err
	}
	return cutAtMark(text, final)
}

// choose returns the template for a conversation.
func (t *Template) choose(in Input) (*variant, error) {
	if t.tools != nil && !isEmpty(in.Tools) {
		return t.tools, nil
	}
	if t.plain == nil {
		return nil, t.Unusable()
	}
	return t.plain, nil
}

// attempt renders with None for tools and documents that are not there, and
// without these variables where that fails.
func (t *Template) attempt(ctx context.Context, template *variant, vars *jinja.Dict) (string, error) {
	text, err := t.render(ctx, template, withNone(vars))
	if err == nil || refuses(err) || ctx.Err() != nil || has(vars, "tools") && has(vars, "documents") {
		return text, err
	}
	if text, err := t.render(ctx, template, vars); err == nil {
		return text, nil
	}
	return "", err
}

// refusal is what a template says that refuses a conversation by
// raise_exception.
type refusal string

func (r refusal) Error() string { return string(r) }

func refuses(err error) bool {
	var r refusal
	return errors.As(err, &r)
}

// withNone adds None for tools and documents that are not there.
func withNone(vars *jinja.Dict) *jinja.Dict {
	out := jinja.NewDict()
	out.Set("tools", nil)
	out.Set("documents", nil)
	copyInto(out, vars)
	return out
}

func (t *Template) render(ctx context.Context, template *variant, vars *jinja.Dict) (string, error) {
	return template.Render(ctx, vars, jinja.Options{Limits: jinja.DefaultLimits, Functions: t.functions()})
}

// variables are what the template can name. Tools and documents are among them
// where they are given.
func (t *Template) variables(in Input, template *variant) (vars *jinja.Dict, final string, err error) {
	vars = jinja.NewDict()
	copyInto(vars, t.specials)
	extra, err := readExtra(in.Extra)
	if err != nil {
		return nil, "", err
	}
	copyInto(vars, extra)
	messages, err := readMessages(in.Messages)
	if err != nil {
		return nil, "", err
	}
	template.shape(messages)
	if in.ContinueFinal {
		if final, err = markFinal(messages); err != nil {
			return nil, "", err
		}
	}
	vars.Set("messages", messages)
	for name, raw := range map[string]json.RawMessage{"tools": in.Tools, "documents": in.Documents} {
		list, err := readList(name, raw)
		if err != nil {
			return nil, "", err
		}
		if list != nil {
			vars.Set(name, list)
		}
	}
	if in.AddGenerationPrompt || !has(vars, "add_generation_prompt") {
		vars.Set("add_generation_prompt", in.AddGenerationPrompt)
	}
	return vars, final, nil
}

// isEmpty reports whether a list is not there.
func isEmpty(raw json.RawMessage) bool {
	text := string(bytes.TrimSpace(raw))
	return text == "" || text == "null"
}

func has(d *jinja.Dict, name string) bool {
	_, ok := d.Get(name)
	return ok
}

func copyInto(dst, src *jinja.Dict) {
	for k, v := range src.All() {
		dst.Set(k, v)
	}
}

// functions are what the template can call, beside Jinja's own.
func (t *Template) functions() map[string]func([]jinja.Value) (jinja.Value, error) {
	return map[string]func([]jinja.Value) (jinja.Value, error){
		"raise_exception": func(args []jinja.Value) (jinja.Value, error) {
			message, err := oneString("raise_exception", args)
			if err == nil {
				err = refusal(message)
			}
			return nil, err
		},
		"strftime_now": func(args []jinja.Value) (jinja.Value, error) {
			format, err := oneString("strftime_now", args)
			if err != nil {
				return nil, err
			}
			if len(format) > maxFormat {
				return nil, fmt.Errorf("strftime_now: the format has %d bytes; at most %d are taken", len(format),
					maxFormat)
			}
			return t.strftime(t.now(), format)
		},
	}
}

// maxFormat bounds a format of strftime_now, in bytes.
const maxFormat = 1 << 10

func (t *Template) now() time.Time {
	if t.Now != nil {
		return t.Now()
	}
	return time.Now()
}

func oneString(function string, args []jinja.Value) (string, error) {
	if len(args) == 1 {
		if s, ok := args[0].(string); ok {
			return s, nil
		}
	}
	return "", fmt.Errorf("%s takes one string", function)
}
