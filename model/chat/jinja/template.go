// Package jinja owns the part of the template language Jinja that chat templates
// are written in, with Python's values: what it renders is, character for
// character, what Python's Jinja2 renders that is set up as Hugging Face's
// transformers does it (immutable sandbox, trim_blocks, lstrip_blocks, loop
// controls, the tag generation, and tojson without HTML escapes). It may not know
// models, messages or files.
//
// A template is data that a stranger wrote: it can neither loop nor grow without
// bound (Limits), it ends with its context, and what Jinja2 refuses, or is not
// supported here, is an error.
package jinja

import (
	"context"
	"fmt"
	"strings"
)

// MaxSource bounds a template, in bytes.
const MaxSource = 1 << 20

// Template is a parsed template. It is safe for concurrent use.
type Template struct{ body block }

// Parse reads a template. Errors are *SyntaxError.
func Parse(source string) (t *Template, err error) {
	if len(source) > MaxSource {
		return nil, &SyntaxError{0, fmt.Sprintf("the template has more than %d bytes", MaxSource)}
	}
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(*SyntaxError)
			if !ok {
				panic(r)
			}
			err = e
		}
	}()
	p := &parser{tokens: lex(strings.ToValidUTF8(source, "\ufffd"))}
	return &Template{p.body()}, nil
}

// DefaultLimits are enough for a conversation of megabytes. All steps take about
// a second.
var DefaultLimits = Limits{Steps: 10_000_000, Bytes: 512 << 20, Depth: 2000}

// Options are how a template is rendered.
type Options struct {
	// Functions are called by name with positional arguments. What they return
	// as an error the template raises.
	Functions map[string]func(args []Value) (Value, error)
	Limits    Limits
}

// Render renders the template with variables, until ctx ends. Errors are *Error;
// that of a context is their Cause.
func (t *Template) Render(ctx context.Context, variables *Dict, o Options) (text string, err error) {
	m := &machine{ctx: ctx, limits: o.Limits, out: &strings.Builder{}, globals: globals(o.Functions)}
	top := &scope{}
	for i, k := range variables.keys {
		top.set(k.(string), variables.values[i])
	}
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(*Error)
			if !ok {
				panic(r)
			}
			text, err = "", e
		}
	}()
	t.body.exec(m, top.inner())
	return m.out.String(), nil
}
