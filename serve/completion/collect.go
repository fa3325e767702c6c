package completion

import (
	"errors"
	"io"
	"strings"
)

// Choice is a whole output.
type Choice struct {
	Delta
}

// Collect reads a run to its end and returns its choices, prompt by prompt.
func Collect(r *Run, prompts, n int) ([]Choice, error) {
	choices := make([]Choice, prompts*n)
	texts := make([]strings.Builder, len(choices))
	for {
		d, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		at := d.Prompt*n + d.Choice
		texts[at].WriteString(d.Text)
		choices[at].add(d)
	}
	for i := range choices {
		choices[i].Text = texts[i].String()
	}
	return choices, nil
}

func (c *Choice) add(d Delta) {
	d.Tokens = append(c.Tokens, d.Tokens...)
	d.CachedTokens += c.CachedTokens
	if d.PromptTokens == nil {
		d.PromptTokens = c.PromptTokens
	}
	c.Delta = d
}
