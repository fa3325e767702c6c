package schedule

import (
	"fmt"
	"strings"
)

// textWidth is the longest line of actions that String prints.
const textWidth = 76

// String prints the schedule as a text file, which [Parse] reads:
//
//	schedule pingpong
//	layers 3
//	sparse 1-2
//	micro-batches 2
//	steps 1
//	max-live 2
//	rank A0 owns A0-2 H
//	  A0F0 A0F1 A1F0 A1F1 A2F0 A2F1 HF0 HF1
//	rank E0 owns E1-2
//	  E1F0 E1F1 E2F0 E2F1
func (s *Schedule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "schedule %s\nlayers %d\n", s.Name, s.Layers)
	if runs := spans(s.Sparse); len(runs) > 0 {
		b.WriteString("sparse")
		for _, r := range runs {
			fmt.Fprintf(&b, " %s", spanText(r[0], r[1]))
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "micro-batches %d\nsteps %d\n", s.MicroBatches, s.Steps)
	if s.MaxLive > 0 {
		fmt.Fprintf(&b, "max-live %d\n", s.MaxLive)
	}
	for i := range s.Ranks {
		s.Ranks[i].print(&b)
	}
	return b.String()
}

func spanText(first, last int) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, last)
}

func (r *Rank) print(b *strings.Builder) {
	fmt.Fprintf(b, "rank %s owns", r.Name)
	for _, o := range r.Owns {
		fmt.Fprintf(b, " %v", o)
	}
	b.WriteByte('\n')
	line := " "
	for _, a := range r.Actions {
		word := a.String()
		if len(line)+1+len(word) > textWidth {
			b.WriteString(line + "\n")
			line = " "
		}
		line += " " + word
	}
	if line != " " {
		b.WriteString(line + "\n")
	}
}

// Parse reads a schedule's text. Blank lines and text behind a # are ignored.
// Parse checks the grammar and leaves the meaning to [Schedule.Validate]. The
// memory that it takes is bounded by the text's length and MaxLayers. Errors name
// the line.
func Parse(text string) (*Schedule, error) {
	p := parser{s: &Schedule{}}
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if err := p.line(words); err != nil {
			return nil, fmt.Errorf("schedule line %d: %w", i+1, err)
		}
	}
	if p.s.Name == "" {
		return nil, fmt.Errorf("schedule: the text has no line \"schedule NAME\"")
	}
	if p.s.Sparse == nil {
		p.s.Sparse = make([]bool, p.s.Layers)
	}
	return p.s, nil
}

// MaxLayers bounds the layers of a schedule.
const MaxLayers = 1 << 16

// parser makes a schedule from lines; seen are the headers that it has read.
type parser struct {
	s    *Schedule
	seen []string
}

// line reads one line: a header, a rank, or more actions of the last rank.
func (p *parser) line(words []string) error {
	if words[0] == "rank" {
		return p.rank(words[1:])
	}
	if len(p.s.Ranks) > 0 {
		return p.actions(&p.s.Ranks[len(p.s.Ranks)-1], words)
	}
	for _, key := range p.seen {
		if key == words[0] {
			return fmt.Errorf("%q is there twice", key)
		}
	}
	p.seen = append(p.seen, words[0])
	return p.header(words[0], words[1:])
}

func (p *parser) header(key string, values []string) error {
	to, known := map[string]*int{
		"schedule": nil, "sparse": nil,
		"layers": &p.s.Layers, "micro-batches": &p.s.MicroBatches, "steps": &p.s.Steps, "max-live": &p.s.MaxLive,
	}[key]
	switch {
	case !known:
		return fmt.Errorf("%q is no header: want schedule, layers, sparse, micro-batches, steps, max-live or rank", key)
	case key == "sparse":
		return p.sparse(values)
	case len(values) != 1:
		return fmt.Errorf("%q wants one value, got %d", key, len(values))
	case key == "schedule":
		p.s.Name = values[0]
		return nil
	}
	if err := number(key, values[0], to); err != nil {
		return err
	}
	if p.s.Layers > MaxLayers {
		return fmt.Errorf("layers %d, at most %d", p.s.Layers, MaxLayers)
	}
	return nil
}

// number reads the value of a header; to is where it goes.
func number(key, value string, to *int) (err error) {
	sc := scanner{rest: value}
	if *to, err = sc.number(key); err == nil && sc.rest != "" {
		err = fmt.Errorf("%s %q: %q is left over", key, value, sc.rest)
	}
	return err
}

// sparse reads runs of layers, in rising order.
func (p *parser) sparse(runs []string) error {
	if p.s.Layers == 0 {
		return fmt.Errorf("sparse: want the line \"layers\" first")
	}
	p.s.Sparse = make([]bool, p.s.Layers)
	next := 0
	for _, word := range runs {
		sc := scanner{rest: word}
		first, last, err := sc.span("layer")
		switch {
		case err != nil:
			return fmt.Errorf("sparse %q: %w", word, err)
		case sc.rest != "":
			return fmt.Errorf("sparse %q: %q is left over", word, sc.rest)
		case first < next || last >= p.s.Layers:
			return fmt.Errorf("sparse %q: want layers from %d below %d", word, next, p.s.Layers)
		}
		for next = first; next <= last; next++ {
			p.s.Sparse[next] = true
		}
	}
	return nil
}

// rank reads the words behind "rank": NAME owns STAGES…
func (p *parser) rank(words []string) error {
	if len(words) < 2 || words[1] != "owns" {
		return fmt.Errorf("want \"rank NAME owns STAGES…\"")
	}
	r := Rank{Name: words[0]}
	for _, word := range words[2:] {
		o, err := parseStages(word)
		if err != nil {
			return fmt.Errorf("rank %s: %w", r.Name, err)
		}
		r.Owns = append(r.Owns, o)
	}
	p.s.Ranks = append(p.s.Ranks, r)
	return nil
}

func (p *parser) actions(r *Rank, words []string) error {
	for _, word := range words {
		a, err := ParseAction(word)
		if err != nil {
			return fmt.Errorf("rank %s: %w", r.Name, err)
		}
		r.Actions = append(r.Actions, a)
	}
	return nil
}
