// Package tokenizer owns the way from text to token ids and back, as a
// checkpoint's tokenizer.json describes it: the same ids as Hugging Face's
// tokenizers, for byte-pair encodings. It may not know models, chat templates or
// HTTP.
//
// Encoding takes these steps. Added tokens are found in the text; what is
// between them is normalised, and cut into pieces by the pre-tokenizer; the
// model cuts each piece into tokens; the post-processor, where it is wanted,
// puts special tokens around all. Anything in a tokenizer.json that would change
// the result and is not known is refused by name.
package tokenizer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/tandem-moe/tandem/internal/bounded"
)

// File is the name that a tokenizer has in a model's folder.
const File = "tokenizer.json"

// MaxFile bounds tokenizer.json, in bytes. The largest that are published have
// some 35 MB.
const MaxFile = 128 << 20

// Tokenizer turns text into token ids and back. It is safe for concurrent use.
type Tokenizer struct {
	file  file // without the model's vocabulary and merges
	model bpe
	// tokens are the strings of the ids; holes are empty.
	tokens []token

	raw, normalized *addedSet
	normalize       normalizer
	split           preTokenizer
	byteLevel       bool // pieces are written in byte-level characters
	post            []postProcessor
	decoders        []decoder
	cache           wordCache
	least           least
	settings        *settings
}

// token is what an id stands for. text is what decoders take: for an added token
// that is normalised, its normal form.
type token struct {
	text    string
	exists  bool
	special bool
	content string // of an added token
}

// Load reads the tokenizer in a model's folder: tokenizer.json, and what the files
// beside it say of it.
func Load(dir string) (*Tokenizer, error) {
	t, err := LoadFS(os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return t, nil
}

// LoadFS reads the tokenizer in a model's folder, as Load.
func LoadFS(dir fs.FS) (*Tokenizer, error) {
	data, err := bounded.ReadFile(dir, File, MaxFile)
	if err != nil {
		return nil, fmt.Errorf("reading the tokenizer: %w", err)
	}
	s, err := readSettings(dir)
	if err != nil {
		return nil, err
	}
	return parseWith(data, s)
}

// parseWith reads a tokenizer.json. It allocates in proportion to it.
func parseWith(data []byte, s *settings) (*Tokenizer, error) {
	t, err := parse(data, s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", File, err)
	}
	return t, nil
}

func parse(data []byte, s *settings) (t *Tokenizer, err error) {
	defer catch(&err)
	t = &Tokenizer{settings: s}
	if err := strict(data, &t.file); err != nil {
		return nil, position(err)
	}
	if v := t.file.Version; v != "1.0" && v != "" {
		return nil, fmt.Errorf("version is %q, want 1.0", v)
	}
	for _, step := range []struct {
		field string
		build func() error
	}{
		{"model", t.buildModel},
		{"normalizer", t.buildNormalizer},
		{"added_tokens", t.buildAdded},
		{"pre_tokenizer", t.buildPreTokenizer},
		{"post_processor", t.buildPostProcessor},
		{"decoder", t.buildDecoder},
		{"length", t.findLeast},
	} {
		if err := step.build(); err != nil {
			return nil, fmt.Errorf("%s: %w", step.field, err)
		}
	}
	return t, nil
}

// position says where in the file an error of encoding/json is.
func position(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("offset %d: %w", syntax.Offset, err)
	case errors.As(err, &kind):
		return fmt.Errorf("offset %d: %w", kind.Offset, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("it ends too early: %w", err)
	}
	return err
}

// Encode returns the text's ids; special adds what the post-processor adds.
// Special tokens that are written out in the text become their ids either way.
// What is not UTF-8 in the text is read as U+FFFD. Errors wrap the context's, or
// ErrTooMuchWork.
func (t *Tokenizer) Encode(ctx context.Context, text string, special bool) ([]int32, error) {
	ids, err := t.encode(newWork(ctx, len(text)), text, special)
	if err != nil {
		return nil, err
	}
	return ids, nil
}

func (t *Tokenizer) encode(w *work, text string, special bool) (ids []int32, err error) {
	defer catch(&err)
	w.look()
	t.pieces(w, validUTF8(text), func(p piece) { ids = t.encodePiece(w, ids, p.text) },
		func(id int32) { ids = append(ids, id) })
	if special {
		for _, p := range t.post {
			ids = p(ids)
		}
	}
	return ids, nil
}

// pieces yields what the model is to encode, and the ids of the added tokens, in
// order.
func (t *Tokenizer) pieces(w *work, text string, yield func(piece), added func(id int32)) {
	first := true
	t.raw.split(w, text, func(part string, token *AddedToken) {
		if token != nil {
			added(token.ID)
			first = false
			return
		}
		t.normalized.split(w, t.normalize(w, part), func(part string, token *AddedToken) {
			if token != nil {
				added(token.ID)
			} else {
				t.split(w, piece{part, first}, yield)
			}
			first = false
		})
		first = false
	})
}

// encodePiece appends the ids of a piece.
func (t *Tokenizer) encodePiece(w *work, dst []int32, word string) []int32 {
	const found = 32 // what a word takes that is remembered
	w.spend(found + len(word))
	if ids, ok := t.cache.get(word); ok {
		return append(dst, ids...)
	}
	n := len(dst)
	written := word
	if t.byteLevel {
		written = byteLevel(w, word)
	}
	dst = t.model.encode(w, dst, written)
	t.cache.put(word, dst[n:])
	return dst
}

// Decode returns the ids' text; skipSpecial leaves special tokens out. An id
// that is no token has no text.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	out := &output{}
	s := t.stream(out, skipSpecial)
	for _, id := range ids {
		s.push(id)
	}
	s.stages.flush()
	return out.String()
}

// Stream decodes ids one at a time. What its methods return is, joined, what
// Decode returns for all ids.
type Stream struct {
	out         *output
	stages      stage
	t           *Tokenizer
	skipSpecial bool
}

// NewStream returns a decoder for one text; skipSpecial leaves special tokens
// out.
func (t *Tokenizer) NewStream(skipSpecial bool) *Stream {
	return t.stream(&output{}, skipSpecial)
}

func (t *Tokenizer) stream(out *output, skipSpecial bool) *Stream {
	return &Stream{out, chain(t.decoders, out), t, skipSpecial}
}

// Push returns the text that the id completes. What may still change is kept
// back: incomplete UTF-8, above all.
func (s *Stream) Push(id int32) string {
	s.push(id)
	return s.out.take()
}

func (s *Stream) push(id int32) {
	if t := s.t.token(id); t.exists && !(s.skipSpecial && t.special) {
		s.stages.push(t.text, true)
	}
}

// Flush returns what is left, and ends the text: incomplete UTF-8 is U+FFFD.
func (s *Stream) Flush() string {
	s.stages.flush()
	return s.out.take()
}

// token returns what an id stands for.
func (t *Tokenizer) token(id int32) token {
	if id < 0 || int(id) >= len(t.tokens) {
		return token{}
	}
	return t.tokens[id]
}

// VocabSize is one more than the largest id. There may be ids below that are no
// token.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// Has reports whether an id is a token.
func (t *Tokenizer) Has(id int32) bool { return t.token(id).exists }

// IsSpecial reports whether an id is a special token.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.token(id).special }

// Piece is a token as the vocabulary writes it: "Ġthe", "▁the", "<0xE2>".
func (t *Tokenizer) Piece(id int32) string {
	if k := t.token(id); k.content != "" {
		return k.content
	}
	return t.token(id).text
}

// ID returns the id of a token as the vocabulary writes it.
func (t *Tokenizer) ID(piece string) (int32, bool) {
	for i := range t.file.AddedTokens {
		if a := &t.file.AddedTokens[i]; a.Content == piece {
			return a.ID, true
		}
	}
	id, ok := t.model.ids[piece]
	return id, ok
}

// TokenBytes is the text that a token stands for in the middle of a text. It
// need not be valid UTF-8 by itself.
func (t *Tokenizer) TokenBytes(id int32) []byte {
	b := []byte(t.token(id).text)
	for _, d := range t.decoders {
		if d.bytes != nil {
			b = d.bytes(b)
		}
	}
	return b
}

// MarshalJSON writes a tokenizer.json that Parse reads to an equal tokenizer.
func (t *Tokenizer) MarshalJSON() ([]byte, error) {
	f := t.file
	f.Version = "1.0"
	f.Model.Vocab = t.model.ids
	f.Model.Merges = t.merges()
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(f)
	return []byte(out.String()), err
}
