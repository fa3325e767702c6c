package completion

import (
	"errors"
	"io"
	"strings"
)

// Collect reads a run to its end. It returns one delta for each choice, ordered by
// prompt, then by choice.
func Collect(r *Run) ([]Delta, error) {
	choices := make([]Delta, r.prompts*r.n)
	texts := make([]strings.Builder, len(choices))
	for {
		d, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		at := d.Prompt*r.n + d.Choice
		texts[at].WriteString(d.Text)
		choices[at] = join(choices[at], d)
	}
	for i := range choices {
		choices[i].Text = texts[i].String()
	}
	return choices, nil
}

// join joins a choice's deltas so far with the next one, except for their text.
func join(so, d Delta) Delta {
	d.Tokens = append(so.Tokens, d.Tokens...)
	d.CachedTokens += so.CachedTokens
	if d.PromptTokens == nil {
		d.PromptTokens = so.PromptTokens
	}
	return d
}
