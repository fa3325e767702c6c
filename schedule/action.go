package schedule

import (
	"fmt"
	"strconv"
	"strings"
)

// Action is one piece of work of one rank: a part of a layer, in one direction,
// for one micro-batch.
type Action struct {
	Part Part
	// Layer counts from 0; it is 0 for the head, which has none.
	Layer     int
	Direction Direction
	// MicroBatch counts from 0.
	MicroBatch int
	// Step counts from 1; 0 is an action without a step, in a schedule that runs
	// the model once.
	Step int
}

// At returns the same action in another step; step 0 takes the step away.
func (a Action) At(step int) Action {
	a.Step = step
	return a
}

// String prints the action as one word, which [ParseAction] reads.
func (a Action) String() string {
	var b []byte
	if a.Step != 0 {
		b = append(strconv.AppendInt(b, int64(a.Step), 10), ':')
	}
	b = append(b, a.Part.String()...)
	if a.Part != Head {
		b = strconv.AppendInt(b, int64(a.Layer), 10)
	}
	b = append(b, a.Direction.String()...)
	return string(strconv.AppendInt(b, int64(a.MicroBatch), 10))
}

// MaxNumber bounds every number in a schedule's text, so that the sum of two of
// them fits an int on every machine.
const MaxNumber = 1<<30 - 1

// ParseAction reads what [Action.String] prints, and nothing else. An error
// names the word and the fault in it.
func ParseAction(word string) (Action, error) {
	p := scanner{rest: word}
	a, err := p.action()
	if err == nil && p.rest != "" {
		err = fmt.Errorf("%q is left over", p.rest)
	}
	if err != nil {
		return Action{}, fmt.Errorf("action %q: %w", word, err)
	}
	return a, nil
}

// scanner reads a word from left to right; rest is what it has not read.
type scanner struct{ rest string }

func (p *scanner) action() (Action, error) {
	var a Action
	var err error
	if strings.Contains(p.rest, ":") {
		if a.Step, err = p.step(); err != nil {
			return a, err
		}
	}
	part, err := p.letter("part", parts)
	if err != nil {
		return a, err
	}
	if a.Part = Part(part); a.Part != Head {
		if a.Layer, err = p.number("layer"); err != nil {
			return a, err
		}
	}
	dir, err := p.letter("direction", directions)
	if err != nil {
		return a, err
	}
	a.Direction = Direction(dir)
	a.MicroBatch, err = p.number("micro-batch")
	return a, err
}

func (p *scanner) step() (int, error) {
	n, err := p.number("step")
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, fmt.Errorf("step 0: steps count from 1")
	}
	if !p.eat(':') {
		return 0, fmt.Errorf("step %d is followed by %q, want ':'", n, p.rest)
	}
	return n, nil
}

func (p *scanner) eat(c byte) bool {
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

// letter eats one letter of a table; kind names the table in errors.
func (p *scanner) letter(kind string, table []Letter) (byte, error) {
	if p.rest == "" {
		return 0, fmt.Errorf("the %s is missing, want one of %s", kind, letters(table))
	}
	c := p.rest[0]
	if find(table, c) < 0 {
		return 0, fmt.Errorf("%s %q, want one of %s", kind, c, letters(table))
	}
	p.rest = p.rest[1:]
	return c, nil
}

// number eats decimal digits without a leading zero. A number has this one
// spelling, so that words and actions are in one-to-one correspondence. field
// names the number in errors.
func (p *scanner) number(field string) (int, error) {
	n := 0
	for n < len(p.rest) && p.rest[n] >= '0' && p.rest[n] <= '9' {
		n++
	}
	digits := p.rest[:n]
	if digits == "" {
		return 0, fmt.Errorf("the %s is missing, want a number before %q", field, p.rest)
	}
	if len(digits) > 1 && digits[0] == '0' {
		return 0, fmt.Errorf("%s %q begins with a zero", field, digits)
	}
	v, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || v > MaxNumber {
		return 0, fmt.Errorf("%s %s is above %d", field, digits, MaxNumber)
	}
	p.rest = p.rest[n:]
	return int(v), nil
}
