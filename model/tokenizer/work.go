package tokenizer

import (
	"context"
	"errors"
	"fmt"
)

// ErrTooMuchWork says that a tokenizer's own rules (its patterns, what it
// replaces, its added tokens) take too long on a text, or make too much of it.
// Those of published tokenizers never do: they need less than a tenth of what is
// allowed.
var ErrTooMuchWork = errors.New("the tokenizer's rules take too much work on this text")

// What one text may cost: some, and more for each byte. Work is counted in parts
// that take a nanosecond or so.
const (
	workBase, workPerByte = 1 << 27, 1 << 10
	// roomBase and roomPerByte bound the bytes that are made of a text: normal
	// forms and pieces. A byte becomes three in most tokenizers, and eleven in the
	// worst normal form.
	roomBase, roomPerByte = 16 << 20, 64
	// checkWork is done between two looks at the context: less than a millisecond.
	checkWork = 1 << 18
)

// work counts what a text costs. It ends the encoding, by a panic that catch
// recovers, where that becomes too much and where the context ends.
type work struct {
	ctx         context.Context
	left, check int64
	room        int64
}

func newWork(ctx context.Context, bytes int) *work {
	n := int64(bytes)
	return &work{ctx: ctx, left: workBase + workPerByte*n, check: workBase + workPerByte*n,
		room: roomBase + roomPerByte*n}
}

// stopped is what work panics with.
type stopped struct{ err error }

// catch, deferred, turns the panic of work into an error.
func catch(err *error) {
	if r := recover(); r != nil {
		s, ok := r.(stopped)
		if !ok {
			panic(r)
		}
		*err = s.err
	}
}

// spend counts work that is about to be done.
func (w *work) spend(n int) {
	w.left -= int64(n)
	if w.left <= w.check {
		w.look()
	}
}

func (w *work) look() {
	if w.left < 0 {
		panic(stopped{ErrTooMuchWork})
	}
	if w.ctx.Err() != nil {
		panic(stopped{fmt.Errorf("encoding was broken off: %w", context.Cause(w.ctx))})
	}
	w.check = max(w.left-checkWork, 0)
}

// grow counts bytes that are about to be made, and the work of that.
func (w *work) grow(n int) {
	if w.room -= int64(n); w.room < 0 {
		panic(stopped{ErrTooMuchWork})
	}
	w.spend(n)
}
