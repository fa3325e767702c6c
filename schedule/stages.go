package schedule

import (
	"fmt"
	"strconv"
)

// stage is one part of one layer, or the head. A rank owns stages, and a row
// passes through them in the order of the layers.
type stage struct {
	part  Part
	layer int
}

func (a Action) stage() stage { return stage{a.Part, a.Layer} }

func (st stage) String() string {
	if st.part == Head {
		return st.part.String()
	}
	return st.part.String() + strconv.Itoa(st.layer)
}

// Stages is one part of the layers First, First+Stride, …, Last. It prints as
// A0-31, with a stride as A1-7/2, of one layer as A3, and of the head as H.
type Stages struct {
	Part        Part
	First, Last int
	// Stride is 1 where there is one layer; pipelines that interleave layers
	// over groups have larger ones.
	Stride int
}

// Layers returns the stages of one part of the layers first to last.
func Layers(part Part, first, last int) Stages {
	return Stages{Part: part, First: first, Last: last, Stride: 1}
}

// heads is the head as an entry of [Rank.Owns].
var heads = Stages{Part: Head, Stride: 1}

// count is the number of the stages; 0 where check refuses them.
func (o Stages) count() int {
	if o.Stride < 1 || o.Last < o.First {
		return 0
	}
	return (o.Last-o.First)/o.Stride + 1
}

func (o Stages) String() string {
	text := stage{o.Part, o.First}.String()
	if o.First == o.Last {
		return text
	}
	text += "-" + strconv.Itoa(o.Last)
	if o.Stride != 1 {
		text += "/" + strconv.Itoa(o.Stride)
	}
	return text
}

// check refuses stages that do not print and parse back to themselves.
func (o Stages) check() error {
	switch {
	case find(parts, byte(o.Part)) < 0:
		return fmt.Errorf("part %v, want one of %s", o.Part, letters(parts))
	case o.Part == Head && o != heads:
		return fmt.Errorf("the head has no layers, got %d to %d", o.First, o.Last)
	case o.Stride < 1 || o.First == o.Last && o.Stride != 1:
		return fmt.Errorf("stride %d from layer %d to %d", o.Stride, o.First, o.Last)
	case o.First < 0 || o.Last < o.First:
		return fmt.Errorf("layers %d to %d are not in order", o.First, o.Last)
	case (o.Last-o.First)%o.Stride != 0:
		return fmt.Errorf("a stride of %d from layer %d misses layer %d", o.Stride, o.First, o.Last)
	}
	return nil
}

// parseStages reads what [Stages.String] prints.
func parseStages(word string) (Stages, error) {
	p := scanner{rest: word}
	o, err := p.stages()
	if err == nil && p.rest != "" {
		err = fmt.Errorf("%q is left over", p.rest)
	}
	if err == nil {
		err = o.check()
	}
	if err != nil {
		return Stages{}, fmt.Errorf("stages %q: %w", word, err)
	}
	return o, nil
}

func (p *scanner) stages() (Stages, error) {
	part, err := p.letter("part", parts)
	if err != nil || Part(part) == Head {
		return heads, err
	}
	o := Stages{Part: Part(part), Stride: 1}
	o.First, o.Last, err = p.span("layer")
	if err == nil && p.eat('/') {
		if o.Stride, err = p.number("stride"); err == nil && o.Stride < 2 {
			err = fmt.Errorf("a written stride is at least 2, got %d", o.Stride)
		}
	}
	return o, err
}

// span eats "3" or "3-5"; field names the numbers in errors.
func (p *scanner) span(field string) (first, last int, err error) {
	if first, err = p.number(field); err != nil {
		return 0, 0, err
	}
	if !p.eat('-') {
		return first, first, nil
	}
	if last, err = p.number(field); err == nil && last <= first {
		err = fmt.Errorf("%s %d to %d is not a span", field, first, last)
	}
	return first, last, err
}
