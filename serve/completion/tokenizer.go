package completion

import (
	"context"

	"github.com/tandem-moe/tandem/model/tokenizer"
)

// Tokenizer turns text into tokens and back.
type Tokenizer interface {
	// Encode returns the text's ids; special adds what the tokenizer's
	// post-processor adds (a beginning-of-sequence token, say). It ends with ctx,
	// whose error it wraps; other errors are about the text.
	Encode(ctx context.Context, text string, special bool) ([]int32, error)
	// LeastTokens is a number of tokens that the text has or exceeds, without
	// encoding it; 0 where nothing is known.
	LeastTokens(text string) int
	// Decode returns the ids' text; skipSpecial leaves special tokens out.
	Decode(ids []int32, skipSpecial bool) string
	// NewStream decodes ids one at a time.
	NewStream(skipSpecial bool) TextStream
	// TokenBytes is the text that a token stands for in the middle of a text. It
	// need not be valid UTF-8 by itself.
	TokenBytes(id int32) []byte
	// Piece is a token as the vocabulary writes it: "Ġthe", say.
	Piece(id int32) string
	// VocabSize is one more than the largest id.
	VocabSize() int
}

// TextStream decodes a sequence of ids. The concatenation of what it returns is
// what Decode returns for all of them.
type TextStream interface {
	// Push returns the text that the id completes; incomplete UTF-8 is kept back.
	Push(id int32) string
	// Flush returns what is left, incomplete UTF-8 as U+FFFD.
	Flush() string
}

// Of is a model's tokenizer as a Tokenizer.
func Of(t *tokenizer.Tokenizer) Tokenizer { return ofModel{t} }

type ofModel struct{ *tokenizer.Tokenizer }

func (m ofModel) NewStream(skipSpecial bool) TextStream { return m.Tokenizer.NewStream(skipSpecial) }
