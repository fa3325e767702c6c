package schedule

import (
	"fmt"
	"strconv"
	"strings"
)

// Part is what of a layer an action computes.
type Part byte

// Parts. Their values are the letters that they print as.
const (
	Attention Part = 'A'
	Experts   Part = 'E'
	// Head is the final norm, the head and what is done with the logits. It
	// comes after the last layer and has no layer of its own.
	Head Part = 'H'
)

func (p Part) String() string { return letter(byte(p), "AEH") }

// Direction is the pass that an action belongs to.
type Direction byte

// Directions. Their values are the letters that they print as.
const (
	Forward  Direction = 'F'
	Backward Direction = 'B'
	// Weight is the gradient of the weights, where it is split off Backward.
	Weight Direction = 'W'
)

func (d Direction) String() string { return letter(byte(d), "FBW") }

// letter prints b where it is one of the known letters.
func letter(b byte, known string) string {
	if strings.IndexByte(known, b) < 0 {
		return fmt.Sprintf("?%d?", b)
	}
	return string(rune(b))
}

// Action is one piece of work of one rank.
type Action struct {
	Part Part
	// Layer is 0 for the head.
	Layer      int
	Direction  Direction
	MicroBatch int
	// Step counts from 1; 0 is an action without a step.
	Step int
}

// At returns the action in another step; 0 takes the step away.
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

// MaxNumber bounds every number in a text, so that sums of them fit an int on
// every machine.
const MaxNumber = 1<<30 - 1

// ParseAction reads what [Action.String] prints, and nothing else. The errors
// name the word and what was wrong with it.
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

// scanner eats a word from the left.
type scanner struct{ rest string }

func (p *scanner) action() (Action, error) {
	var a Action
	var err error
	if strings.Contains(p.rest, ":") {
		if a.Step, err = p.step(); err != nil {
			return a, err
		}
	}
	part, err := p.letter("part", "AEH")
	if err != nil {
		return a, err
	}
	if a.Part = Part(part); a.Part != Head {
		if a.Layer, err = p.number("layer"); err != nil {
			return a, err
		}
	}
	dir, err := p.letter("direction", "FBW")
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

// letter eats one of the letters; what names it in errors.
func (p *scanner) letter(what, letters string) (byte, error) {
	if p.rest == "" {
		return 0, fmt.Errorf("the %s is missing, want one of %s", what, letters)
	}
	c := p.rest[0]
	if strings.IndexByte(letters, c) < 0 {
		return 0, fmt.Errorf("%s %q, want one of %s", what, c, letters)
	}
	p.rest = p.rest[1:]
	return c, nil
}

// number eats decimal digits without a leading zero: the one spelling of a
// number, so that words and actions are in one-to-one correspondence.
func (p *scanner) number(what string) (int, error) {
	n := 0
	for n < len(p.rest) && p.rest[n] >= '0' && p.rest[n] <= '9' {
		n++
	}
	digits := p.rest[:n]
	if digits == "" {
		return 0, fmt.Errorf("the %s is missing, want a number before %q", what, p.rest)
	}
	if len(digits) > 1 && digits[0] == '0' {
		return 0, fmt.Errorf("%s %q begins with a zero", what, digits)
	}
	v, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || v > MaxNumber {
		return 0, fmt.Errorf("%s %s is above %d", what, digits, MaxNumber)
	}
	p.rest = p.rest[n:]
	return int(v), nil
}
