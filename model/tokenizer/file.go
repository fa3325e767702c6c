package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// file is tokenizer.json.
type file struct {
	Version string `json:"version"`
	// Truncation and Padding are how texts were cut and filled in training. As
	// in transformers, they are not for a caller who did not ask for them.
	Truncation    json.RawMessage `json:"truncation"`
	Padding       json.RawMessage `json:"padding"`
	AddedTokens   addedList       `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         modelFile       `json:"model"`
}

// modelFile is tokenizer.json's model.
type modelFile struct {
	Type         string     `json:"type"`
	Dropout      *float64   `json:"dropout"`
	Unk          *string    `json:"unk_token"`
	Prefix       *string    `json:"continuing_subword_prefix"`
	Suffix       *string    `json:"end_of_word_suffix"`
	FuseUnk      bool       `json:"fuse_unk"`
	ByteFallback bool       `json:"byte_fallback"`
	IgnoreMerges bool       `json:"ignore_merges"`
	Vocab        vocabulary `json:"vocab"`
	Merges       mergeList  `json:"merges"`
}

// UnmarshalJSON tells a model that is not BPE before its other fields get in the
// way.
func (m *modelFile) UnmarshalJSON(data []byte) error {
	var kind struct {
		Type   *string         `json:"type"`
		Merges json.RawMessage `json:"merges"`
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return err
	}
	if kind.Type != nil && *kind.Type != "BPE" || kind.Type == nil && kind.Merges == nil {
		name := "without a type or merges"
		if kind.Type != nil {
			name = *kind.Type
		}
		return fmt.Errorf("model %s is not supported: only BPE is", name)
	}
	type plain modelFile
	return strict(data, (*plain)(m))
}

// Bounds of a tokenizer.json, some times what is published: what is read takes up
// to a hundred times the memory of its text, so that entries are counted first.
const (
	maxVocabulary = 1 << 21
	maxMerges     = 1 << 22
	maxAdded      = 1 << 17
	// maxToken and maxContent bound a token and what Replace or Prepend put into a
	// text, in bytes; maxAround the tokens that a post-processor adds.
	maxToken   = 16 << 10
	maxContent = 1 << 10
	maxAround  = 1 << 12
)

// atMost refuses a list of which the separator says that it has more entries.
// Separators inside strings count, too: so it takes several for each entry.
func atMost(data []byte, separator string, entries, each int) error {
	if bytes.Count(data, []byte(separator)) > each*entries {
		return fmt.Errorf("more than %d entries", entries)
	}
	return nil
}

// vocabulary is the ids of tokens.
type vocabulary map[string]int32

// UnmarshalJSON reads an object of a bounded number of tokens.
func (v *vocabulary) UnmarshalJSON(data []byte) error {
	if err := atMost(data, ":", maxVocabulary, 2); err != nil {
		return fmt.Errorf("vocab: %w", err)
	}
	return json.Unmarshal(data, (*map[string]int32)(v))
}

// addedList is a bounded list.
type addedList []AddedToken

// UnmarshalJSON reads the list, and refuses fields that are not known.
func (l *addedList) UnmarshalJSON(data []byte) error {
	if err := atMost(data, "{", maxAdded, 2); err != nil {
		return fmt.Errorf("added_tokens: %w", err)
	}
	return strict(data, (*[]AddedToken)(l))
}

// mergeList reads merges in both of their encodings, "a b" and ["a", "b"], and
// writes the second.
type mergeList [][2]string

func (m *mergeList) UnmarshalJSON(data []byte) error {
	if err := atMost(data, ",", maxMerges, 4); err != nil {
		return fmt.Errorf("merges: %w", err)
	}
	first := bytes.TrimLeft(bytes.TrimPrefix(data, []byte("[")), " \t\r\n")
	if !bytes.HasPrefix(first, []byte(`"`)) {
		return m.pairs(data)
	}
	var lines []string
	if err := json.Unmarshal(data, &lines); err != nil {
		return err
	}
	*m = make(mergeList, 0, len(lines))
	for i, line := range lines {
		if strings.HasPrefix(line, "#version") {
			continue
		}
		left, right, ok := strings.Cut(line, " ")
		if !ok || strings.Contains(right, " ") {
			return fmt.Errorf("merges[%d] is %q: want two tokens with a space between", i, line)
		}
		*m = append(*m, [2]string{left, right})
	}
	return nil
}

func (m *mergeList) pairs(data []byte) error {
	var lists [][]string
	if err := json.Unmarshal(data, &lists); err != nil {
		return err
	}
	*m = make(mergeList, len(lists))
	for i, l := range lists {
		if len(l) != 2 {
			return fmt.Errorf("merges[%d] has %d tokens, want 2", i, len(l))
		}
		(*m)[i] = [2]string{l[0], l[1]}
	}
	return nil
}

// strict decodes JSON and refuses fields that v does not have: they would change
// the result.
func strict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more than one JSON value")
	}
	return nil
}

// isNull reports whether a field is missing or null.
func isNull(raw json.RawMessage) bool {
	return len(raw) == 0 || string(raw) == "null"
}

// kindOf returns a component's type.
func kindOf(raw json.RawMessage) (string, error) {
	var c struct {
		Type *string `json:"type"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return "", err
	}
	if c.Type == nil {
		return "", errors.New("type is missing")
	}
	return *c.Type, nil
}
