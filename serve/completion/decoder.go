package completion

import (
	"slices"
	"unicode/utf8"

	"github.com/tandem-moe/tandem/serve"
)

// Token is a token of a prompt or an output.
type Token struct {
	ID int32
	// Offset is where the token's text begins, in characters from the start of
	// its text (prompt or output).
	Offset int
	// Logprob is nil where none was asked for, and for a prompt's first token.
	Logprob *serve.TokenLogprob
}

// Delta is a piece of one output.
type Delta struct {
	// Prompt and Choice say whose: the prompt's position in the request, and the
	// choice's among the prompt's.
	Prompt, Choice int
	Text           string
	// Tokens are those that arrived since the choice's last delta. Their text may
	// be held back in part, as what may be the start of a stop string.
	Tokens []Token
	// CachedTokens, in a choice's first delta, is how many prompt tokens a cached
	// prefix saved.
	CachedTokens int
	// PromptTokens is set in a choice's first delta where the prompt's
	// log-probabilities were asked for.
	PromptTokens []Token
	// Finish is set in a choice's last delta.
	Finish serve.FinishReason
	// StopString or StopToken is what ended the output; StopToken is −1 and
	// StopString empty where neither did.
	StopString string
	StopToken  int32
}

// decoder turns one sequence's events into deltas.
type decoder struct {
	text    TextStream
	stops   stopFinder
	stopIDs []int32
	minimum int
	include bool

	pending   []Token
	offset    int
	generated int
	done      bool
}

func newDecoder(t Tokenizer, r *Request) *decoder {
	return &decoder{
		text:    t.NewStream(r.SkipSpecial),
		stops:   stopFinder{stops: r.Stop},
		stopIDs: r.StopIDs,
		minimum: r.MinTokens,
		include: r.IncludeStop,
	}
}

// event takes the next event. The delta is worth passing on where ok.
func (d *decoder) event(e serve.Event) (delta Delta, ok bool) {
	delta.StopToken = -1
	if e.HasToken {
		d.token(e, &delta)
	}
	if e.Finish != "" && !d.done {
		d.finish(e.Finish, &delta)
	}
	if delta.Text != "" || d.done {
		delta.Tokens = d.pending
		d.pending = nil
	}
	return delta, delta.Text != "" || d.done
}

func (d *decoder) token(e serve.Event, delta *Delta) {
	d.generated++
	d.pending = append(d.pending, Token{ID: e.Token, Offset: d.offset, Logprob: e.Logprob})
	ends := d.generated > d.minimum && slices.Contains(d.stopIDs, e.Token)
	if ends {
		delta.StopToken = e.Token
	}
	if ends && !d.include {
		return
	}
	piece := d.text.Push(e.Token)
	d.show(piece, delta)
}

// show passes a piece of text through the stop strings.
func (d *decoder) show(piece string, delta *Delta) {
	d.offset += utf8.RuneCountInString(piece)
	shown, stop := d.stops.push(piece, d.generated > d.minimum)
	delta.Text += shown
	if stop == "" {
		return
	}
	if d.include {
		delta.Text += stop
	}
	delta.Finish, delta.StopString, delta.StopToken = serve.FinishStop, stop, -1
	d.done = true
}

// finish ends the text: what was kept back comes out, unless it completes a stop
// string.
func (d *decoder) finish(reason serve.FinishReason, delta *Delta) {
	d.show(d.text.Flush(), delta)
	if d.done {
		return
	}
	delta.Text += d.stops.flush()
	delta.Finish = reason
	d.done = true
}

// promptTokens joins a prompt's ids with their log-probabilities and offsets.
func promptTokens(t Tokenizer, prompt []int32, logprobs []serve.TokenLogprob, skipSpecial bool) []Token {
	text := t.NewStream(skipSpecial)
	tokens := make([]Token, len(prompt))
	offset := 0
	for i, id := range prompt {
		tokens[i] = Token{ID: id, Offset: offset}
		if i > 0 && i < len(logprobs) {
			tokens[i].Logprob = &logprobs[i]
		}
		offset += utf8.RuneCountInString(text.Push(id))
	}
	return tokens
}
