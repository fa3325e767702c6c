package completion

import (
	"slices"
	"unicode/utf8"

	"github.com/tandem-moe/tandem/serve"
)

// Token is a token of a prompt or an output.
type Token struct {
	ID int32
	// Offset is where the token's text begins, in characters from the start of the
	// prompt or output.
	Offset int
	// Logprob is nil where it was not asked for, and for a prompt's first token.
	Logprob *serve.TokenLogprob
}

// Delta is a piece of one output.
type Delta struct {
	// Prompt is the prompt's index in the request, Choice the index of one of its
	// outputs.
	Prompt, Choice int
	Text           string
	// Tokens are those that arrived since the choice's last delta. The end of their
	// text may come in a later delta: a stop string might begin there.
	Tokens []Token
	// CachedTokens is how many prompt tokens were in a cached prefix; only in a
	// choice's first delta.
	CachedTokens int
	// PromptTokens is set in a choice's first delta where the prompt's
	// log-probabilities were asked for.
	PromptTokens []Token
	// Finish is set in a choice's last delta.
	Finish serve.FinishReason
	// StopString or StopToken is what ended the output. StopString is "" and StopToken
	// −1 where it was not what ended it.
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

// event takes the next event. ok says that the delta has text or ends the output;
// otherwise the caller ignores it.
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

// show adds a piece of text to the delta, except for what the stopFinder holds back,
// and ends the output at a stop string.
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

// finish ends the output. Text that was held back is shown, unless the last bytes
// complete a stop string.
func (d *decoder) finish(reason serve.FinishReason, delta *Delta) {
	d.show(d.text.Flush(), delta)
	if d.done {
		return
	}
	delta.Text += d.stops.flush()
	delta.Finish = reason
	d.done = true
}

// promptTokens returns a prompt's tokens with their log-probabilities and offsets.
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
