package tokenizer

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// buildModel makes the model, and the tokens of its vocabulary.
func (t *Tokenizer) buildModel() error {
	f := &t.file.Model
	if f.Dropout != nil && *f.Dropout != 0 {
		return fmt.Errorf("dropout is %g: encoding by chance is not supported", *f.Dropout)
	}
	if f.Vocab == nil || f.Merges == nil {
		return fmt.Errorf("vocab or merges is missing")
	}
	b := &t.model
	b.ids, b.fuseUnk, b.wholeIDs = f.Vocab, f.FuseUnk, f.IgnoreMerges
	b.prefix, b.suffix = deref(f.Prefix), deref(f.Suffix)
	if err := t.number(b.ids); err != nil {
		return err
	}
	if err := b.setMerges(f.Merges); err != nil {
		return err
	}
	if f.ByteFallback {
		b.setBytes()
	}
	f.Type, f.Vocab, f.Merges = "BPE", nil, nil
	return nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Ids may leave holes: up to sparse times as many as there are tokens, and some.
const (
	sparse = 8
	holes  = 4096
)

// number lays the vocabulary out by id.
func (t *Tokenizer) number(ids map[string]int32) error {
	last := int32(-1)
	for text, id := range ids {
		if id < 0 || int(id) >= sparse*len(ids)+holes {
			return fmt.Errorf("vocab: the id of %q is %d, of %d tokens", text, id, len(ids))
		}
		if len(text) > maxToken {
			return fmt.Errorf("vocab: the token %d has %d bytes; at most %d are taken", id, len(text), maxToken)
		}
		last = max(last, id)
	}
	t.tokens = make([]token, last+1)
	for text, id := range ids {
		if other := t.tokens[id]; other.exists {
			return fmt.Errorf("vocab: %q and %q have one id, %d", min(text, other.text), max(text, other.text), id)
		}
		t.tokens[id] = token{text: text, exists: true}
	}
	return nil
}

func (b *bpe) setMerges(merges mergeList) error {
	b.merges = make(map[pair]merge, len(merges))
	for rank, m := range merges {
		left, leftOK := b.ids[m[0]]
		right, rightOK := b.ids[m[1]]
		merged, mergedOK := b.ids[m[0]+strings.TrimPrefix(m[1], b.prefix)]
		switch {
		case !leftOK:
			return fmt.Errorf("merges[%d] %q: vocab has no %q", rank, m, m[0])
		case !rightOK:
			return fmt.Errorf("merges[%d] %q: vocab has no %q", rank, m, m[1])
		case !mergedOK:
			return fmt.Errorf("merges[%d] %q: vocab has no token for both", rank, m)
		}
		b.merges[pair{left, right}] = merge{int32(rank), merged}
	}
	return nil
}

// merges lists the model's merges by rank, as the file has them.
func (t *Tokenizer) merges() mergeList {
	type ranked struct {
		pair
		rank int32
	}
	names := make([]string, len(t.tokens))
	for text, id := range t.model.ids {
		names[id] = text
	}
	var all []ranked
	for p, m := range t.model.merges {
		all = append(all, ranked{p, m.rank})
	}
	slices.SortFunc(all, func(a, b ranked) int { return cmp.Compare(a.rank, b.rank) })
	out := mergeList{}
	for _, m := range all {
		out = append(out, [2]string{names[m.left], names[m.right]})
	}
	return out
}

// setBytes looks up the tokens of the 256 bytes; -1 where there is none.
func (b *bpe) setBytes() {
	b.bytes = make([]int32, 256)
	for i := range b.bytes {
		b.bytes[i] = -1
		if id, ok := b.ids[byteToken(byte(i))]; ok {
			b.bytes[i] = id
		}
	}
}

func (t *Tokenizer) buildNormalizer() error {
	parts, err := build(t.file.Normalizer, "normalizers", normalizers)
	t.normalize = sequenceNormalizer(parts)
	return err
}

// buildAdded gives the added tokens their ids, and finds the unknown token,
// which may be one of them.
func (t *Tokenizer) buildAdded() error {
	if err := t.addTokens(t.settings); err != nil {
		return err
	}
	var raw, normalized []addedEntry
	w := newWork(context.Background(), t.addedBytes())
	seen := map[AddedToken]bool{}
	for i := range t.file.AddedTokens {
		a := &t.file.AddedTokens[i]
		if a.Content == "" || seen[*a] {
			continue
		}
		if len(a.Content) > maxToken {
			return fmt.Errorf("the token %d has %d bytes; at most %d are taken", a.ID, len(a.Content), maxToken)
		}
		seen[*a] = true
		if err := t.place(w, a); err != nil {
			return err
		}
		if a.Normalized {
			normalized = append(normalized, addedEntry{t.tokens[a.ID].text, a})
		} else {
			raw = append(raw, addedEntry{a.Content, a})
		}
	}
	words := newRuneSet(words())
	var err error
	if t.raw, err = newAddedSet(raw, words); err != nil {
		return err
	}
	if t.normalized, err = newAddedSet(normalized, words); err != nil {
		return err
	}
	t.raw.plain, t.normalized.plain = t.settings.splitSpecial, t.settings.splitSpecial
	t.findUnk()
	return nil
}

// addedBytes is how long the added tokens are together.
func (t *Tokenizer) addedBytes() int {
	n := 0
	for i := range t.file.AddedTokens {
		n += len(t.file.AddedTokens[i].Content)
	}
	return n
}

// place puts an added token among the tokens. Its id must be the vocabulary's
// where that has the token, and a new one otherwise: Hugging Face would number
// it otherwise than the file does.
func (t *Tokenizer) place(w *work, a *AddedToken) error {
	want, ok := t.model.ids[a.Content]
	if !ok {
		want = int32(len(t.tokens))
	}
	if a.ID != want {
		return fmt.Errorf("the id of %q is %d, but its place in the vocabulary is %d", a.Content, a.ID, want)
	}
	if !ok {
		t.tokens = append(t.tokens, token{})
	}
	k := token{text: a.Content, content: a.Content, exists: true, special: a.Special}
	if a.Normalized {
		k.text = t.normalize(w, a.Content)
	}
	t.tokens[a.ID] = k
	return nil
}

// findUnk looks up the token of unknown characters. Where it is no token,
// unknown characters vanish.
func (t *Tokenizer) findUnk() {
	t.model.unk = -1
	if t.file.Model.Unk == nil {
		return
	}
	if id, ok := t.ID(*t.file.Model.Unk); ok {
		t.model.unk = id
	}
}

func (t *Tokenizer) buildPreTokenizer() error {
	if err := t.applyPrefixSpace(t.settings); err != nil {
		return err
	}
	cutters, err := build(t.file.PreTokenizer, "pretokenizers", preTokenizers)
	var parts []preTokenizer
	for i, c := range cutters {
		parts = append(parts, c.preTokenizer)
		switch {
		case c.byteLevel && i == len(cutters)-1:
			t.byteLevel = true // done to a word when it is encoded
		case c.byteLevel:
			parts = append(parts, byteLevelPiece)
		}
	}
	t.split = sequencePreTokenizer(parts)
	return err
}

func byteLevelPiece(w *work, p piece, yield func(piece)) {
	yield(piece{byteLevel(w, p.text), p.first})
}

func (t *Tokenizer) buildPostProcessor() error {
	err := t.applyAround(t.settings)
	if err != nil {
		return err
	}
	if t.post, err = build(t.file.PostProcessor, "processors", postProcessors); err != nil {
		return err
	}
	for _, p := range t.post {
		for _, id := range p(nil) {
			if !t.Has(id) {
				return fmt.Errorf("it adds the id %d, which is no token", id)
			}
		}
	}
	return nil
}

func (t *Tokenizer) buildDecoder() error {
	var err error
	t.decoders, err = build(t.file.Decoder, "decoders", decoders)
	if isNull(t.file.Decoder) {
		t.decoders = []decoder{joinDecoder()}
	}
	return err
}
