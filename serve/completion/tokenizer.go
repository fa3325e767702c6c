package completion

import (
	"context"

	"github.com/tandem-moe/tandem/model/tokenizer"
)

// Tokenizer turns text into tokens and back.
type Tokenizer interface {
	// Encode returns the text's tokens. special adds the tokens of the tokenizer's
	// post-processor (a beginning-of-sequence token, say). When ctx ends, Encode
	// returns an error that wraps ctx's; other errors are about the text.
	Encode(ctx context.Context, text string, special bool) ([]int32, error)
	// LeastTokens is a lower bound of the text's number of tokens, found without
	// encoding it; 0 where no bound is known.
	LeastTokens(text string) int
	// Decode returns the ids' text; skipSpecial leaves special tokens out.
	Decode(ids []int32, skipSpecial bool) string
	// NewStream decodes ids one at a time.
	NewStream(skipSpecial bool) TextStream
	// TokenBytes is what a token adds to a text when it is not the first token. The
	// bytes need not be valid UTF-8 by themselves.
	TokenBytes(id int32) []byte
	// Piece is the token's spelling in the vocabulary: "Ġthe", say.
	Piece(id int32) string
	// VocabSize is one more than the largest token.
	VocabSize() int
}

// TextStream decodes a sequence token by token. Its results together are what
// Decode returns for the whole sequence.
type TextStream interface {
	// Push returns the text that the token completes; it holds incomplete UTF-8 back.
	Push(id int32) string
	// Flush returns the text held back, incomplete UTF-8 as U+FFFD.
	Flush() string
}

// Of makes a Tokenizer of a model's tokenizer.
func Of(t *tokenizer.Tokenizer) Tokenizer { return ofModel{t} }

type ofModel struct{ *tokenizer.Tokenizer }

func (m ofModel) NewStream(skipSpecial bool) TextStream { return m.Tokenizer.NewStream(skipSpecial) }
