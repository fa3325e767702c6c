package enginetest

import (
	"context"
	"strings"
	"unicode/utf8"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/completion"
)

// The vocabulary: the 256 bytes, and special tokens.
const (
	BOS        = 256
	EOS        = 257
	Vocabulary = 258
)

// Greeting is the output of a greedy request.
const Greeting = "Hello from the fake engine, héllo.\n"

// Sample is the default script: for a greedy request the greeting and EOS, else
// lower-case letters that depend on seed, choice and position alone.
func Sample(r serve.Request) []int32 {
	if r.Sampling.Temperature == 0 {
		return append(Bytes(Greeting), EOS)
	}
	out := make([]int32, max(r.MaxTokens, 1))
	for i := range out {
		x := mix(r.Sampling.Seed ^ mix(uint64(r.Sampling.Choice)<<32|uint64(i)))
		out[i] = int32('a' + x%26)
	}
	return out
}

// mix is the finaliser of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Bytes returns a text's tokens.
func Bytes(text string) []int32 {
	ids := make([]int32, len(text))
	for i := range len(text) {
		ids[i] = int32(text[i])
	}
	return ids
}

func promptLogprobs(prompt []int32, top int) []serve.TokenLogprob {
	out := make([]serve.TokenLogprob, len(prompt))
	out[0].Token = prompt[0]
	for i := 1; i < len(prompt); i++ {
		out[i] = tokenLogprob(prompt[i], i, top)
	}
	return out
}

// tokenLogprob makes up a log-probability from a token and its position in its
// sequence. Every third token is only the second best candidate.
func tokenLogprob(token int32, position, top int) serve.TokenLogprob {
	own := serve.Logprob{Token: token, Logprob: -1 - 0.25*float32(position%4)}
	other := serve.Logprob{Token: (token + 1) % Vocabulary, Logprob: own.Logprob - 0.5}
	best := []serve.Logprob{own, other}
	if position%3 == 2 {
		other.Logprob = own.Logprob + 0.125
		best = []serve.Logprob{other, own}
	}
	for len(best) < top {
		last := best[len(best)-1]
		best = append(best, serve.Logprob{Token: (last.Token + 2) % Vocabulary, Logprob: last.Logprob - 1})
	}
	return serve.TokenLogprob{Logprob: own, Top: best[:top]}
}

// Tokenizer has a token for each byte.
type Tokenizer struct{}

var _ completion.Tokenizer = Tokenizer{}

// Encode implements completion.Tokenizer; special puts BOS first.
func (Tokenizer) Encode(ctx context.Context, text string, special bool) ([]int32, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ids := Bytes(text)
	if special {
		ids = append([]int32{BOS}, ids...)
	}
	return ids, nil
}

// LeastTokens implements completion.Tokenizer: each byte is a token.
func (Tokenizer) LeastTokens(text string) int { return len(text) }

// Decode implements completion.Tokenizer.
func (t Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	var b strings.Builder
	s := t.NewStream(skipSpecial)
	for _, id := range ids {
		b.WriteString(s.Push(id))
	}
	b.WriteString(s.Flush())
	return b.String()
}

// TokenBytes implements completion.Tokenizer.
func (Tokenizer) TokenBytes(id int32) []byte {
	switch id {
	case BOS:
		return []byte("<s>")
	case EOS:
		return []byte("</s>")
	default:
		return []byte{byte(id)}
	}
}

// Piece implements completion.Tokenizer.
func (t Tokenizer) Piece(id int32) string {
	return strings.ToValidUTF8(string(t.TokenBytes(id)), "\ufffd")
}

// VocabSize implements completion.Tokenizer.
func (Tokenizer) VocabSize() int { return Vocabulary }

// NewStream implements completion.Tokenizer.
func (t Tokenizer) NewStream(skipSpecial bool) completion.TextStream {
	return &byteStream{skip: skipSpecial}
}

// byteStream holds bytes back until they are whole characters.
type byteStream struct {
	skip bool
	kept []byte
}

func (s *byteStream) Push(id int32) string {
	if id >= BOS {
		if s.skip {
			return ""
		}
		return s.Flush() + string(Tokenizer{}.TokenBytes(id))
	}
	s.kept = append(s.kept, byte(id))
	return s.take(false)
}

func (s *byteStream) Flush() string { return s.take(true) }

func (s *byteStream) take(all bool) string {
	var b strings.Builder
	for len(s.kept) > 0 && (all || utf8.FullRune(s.kept)) {
		r, n := utf8.DecodeRune(s.kept)
		b.WriteRune(r)
		s.kept = s.kept[n:]
	}
	return b.String()
}
