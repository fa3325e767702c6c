package api

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Parser reads the body of one request.
type Parser struct {
	// Strict refuses a field that nobody knows; else it is a warning.
	Strict bool
	// MaxStops is how many stop strings there may be; 0: 64.
	MaxStops int

	warnings []string
	more     int
}

// maxWarnings is how many warnings are told, each.
const maxWarnings = 8

// Warnings are what the body asks for and does not get, as plain ASCII.
func (p *Parser) Warnings() []string {
	if p.more == 0 {
		return p.warnings
	}
	return append(slices.Clone(p.warnings), fmt.Sprintf("and %d more", p.more))
}

// note adds a warning. Its text is made only where it is told.
func (p *Parser) note(text func() string) {
	if len(p.warnings) == maxWarnings {
		p.more++
		return
	}
	quoted := strconv.QuoteToASCII(text())
	p.warnings = append(p.warnings, strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`))
}

func (p *Parser) maxStops() int { return cmp.Or(p.MaxStops, maxStops) }

// unknown takes a field that nobody knows.
func (p *Parser) unknown(known fields, name, key string) error {
	if p.Strict {
		e := invalid(name, "unknown field: %s%s", name, meant(known, key))
		e.Code = "unknown_parameter"
		return e
	}
	p.note(func() string { return fmt.Sprintf("unknown field, ignored: %s%s", name, meant(known, key)) })
	return nil
}

// meant asks whether a known field was meant, where one is close.
func meant(known fields, key string) string {
	if near := known.nearest(key); near != "" {
		return fmt.Sprintf(" (did you mean %s?)", near)
	}
	return ""
}

// effort takes OpenAI's reasoning_effort, which belongs to the template here: it
// changes nothing where it is what leaving it out means.
func (p *Parser) effort(name string, raw []byte) error {
	if sameValue(raw, `"none"`) {
		p.note(func() string {
			return name + ": none changes nothing by itself; if the model's template can turn reasoning off, chat_template_kwargs does"
		})
		return nil
	}
	return only("if the model's template knows it, send it in chat_template_kwargs", `"medium"`, `""`)(name, raw)
}

// nearest is the known name that a misspelt one is closest to; empty: none is
// close.
func (f fields) nearest(key string) string {
	const longest = 40
	if len(key) > longest {
		return ""
	}
	key = strings.ToLower(strings.ReplaceAll(key, "-", "_"))
	best, found := min(1+len(key)/4, len(key)-1), ""
	for name := range f {
		if d := distance(key, name); d < best || d == best && (found == "" || name < found) {
			best, found = d, name
		}
	}
	return found
}

// distance is Levenshtein's: how many letters have to be put in, left out or
// changed.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// oneOf takes one of some strings.
func oneOf(into *string, values ...string) rule {
	return func(name string, raw []byte) error {
		if err := text(into)(name, raw); err != nil {
			return err
		}
		if !slices.Contains(values, *into) {
			return invalid(name, "%s must be one of %s, and is %s", name, strings.Join(values, ", "), short(raw))
		}
		return nil
	}
}
