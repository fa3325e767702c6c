// Package chat owns the way from a conversation to the text that a model
// continues: the checkpoint's own chat template, with the variables that Hugging
// Face's transformers gives it. It may not know tokens, models or HTTP.
package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/tandem-moe/tandem/model/chat/jinja"
)

// ErrNoTemplate says that a checkpoint has no chat template.
var ErrNoTemplate = errors.New("the model has no chat template")

// Template is a checkpoint's chat template. It is safe for concurrent use.
type Template struct {
	// Now is the clock of strftime_now; nil: time.Now.
	Now func() time.Time

	plain    *jinja.Template
	tools    *jinja.Template // for conversations with tools; nil: plain
	specials *jinja.Dict
	// strftime formats a time; tests replace it.
	strftime func(t time.Time, format string) (string, error)
}

// Special is a special token that templates can name: bos_token, "<s>".
type Special struct{ Name, Text string }

// New reads a template. specials become variables.
func New(template string, specials []Special) (*Template, error) {
	return newTemplate(source{plain: template, specials: specials})
}

func newTemplate(src source) (*Template, error) {
	t := &Template{specials: jinja.NewDict(), strftime: strftime}
	for _, s := range src.specials {
		t.specials.Set(s.Name, s.Text)
	}
	var err error
	if t.plain, err = jinja.Parse(src.plain); err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	if src.tools == "" {
		return t, nil
	}
	if t.tools, err = jinja.Parse(src.tools); err != nil {
		return nil, fmt.Errorf("chat template for tools: %w", err)
	}
	return t, nil
}

// Load reads the template in a model's folder. The error is ErrNoTemplate where
// there is none.
func Load(dir string) (*Template, error) {
	t, err := LoadFS(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return t, nil
}

// LoadFS reads the template in a model's folder. The error is ErrNoTemplate where
// there is none.
func LoadFS(dir fs.FS) (*Template, error) {
	src, err := readSource(dir)
	if err != nil {
		return nil, err
	}
	return newTemplate(src)
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
	// Extra is an object of further variables; nil: none.
	Extra json.RawMessage
}

// Render returns the text of a conversation. The error is a *jinja.Error where
// the template refuses it, and wraps the context's where that ends first.
//
// Like transformers it gives the template None for tools and documents where
// there are none. Some templates stumble over that, so that one that fails, and
// does not refuse the conversation itself, gets another try without these
// variables.
func (t *Template) Render(ctx context.Context, in Input) (string, error) {
	vars, err := t.variables(in)
	if err != nil {
		return "", err
	}
	text, err := t.render(ctx, withNone(vars))
	if err == nil || refuses(err) || ctx.Err() != nil || has(vars, "tools") && has(vars, "documents") {
		return text, err
	}
	if text, err := t.render(ctx, vars); err == nil {
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

func (t *Template) render(ctx context.Context, vars *jinja.Dict) (string, error) {
	template := t.plain
	if tools, _ := vars.Get("tools"); tools != nil && t.tools != nil {
		template = t.tools
	}
	return template.Render(ctx, vars, jinja.Options{Limits: jinja.DefaultLimits, Functions: t.functions()})
}

// variables are what the template can name. Tools and documents are among them
// where they are given.
func (t *Template) variables(in Input) (*jinja.Dict, error) {
	vars := jinja.NewDict()
	copyInto(vars, t.specials)
	extra, err := readExtra(in.Extra)
	if err != nil {
		return nil, err
	}
	copyInto(vars, extra)
	messages, err := readMessages(in.Messages)
	if err != nil {
		return nil, err
	}
	vars.Set("messages", messages)
	for name, raw := range map[string]json.RawMessage{"tools": in.Tools, "documents": in.Documents} {
		list, err := readList(name, raw)
		if err != nil {
			return nil, err
		}
		if list != nil {
			vars.Set(name, list)
		}
	}
	if in.AddGenerationPrompt || !has(vars, "add_generation_prompt") {
		vars.Set("add_generation_prompt", in.AddGenerationPrompt)
	}
	return vars, nil
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
				return nil, fmt.Errorf("strftime_now: the format has %d bytes; at most %d are taken", len(format), maxFormat)
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
