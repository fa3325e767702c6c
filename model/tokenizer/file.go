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
	AddedTokens   []AddedToken    `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         modelFile       `json:"model"`
}

// modelFile is tokenizer.json's model.
type modelFile struct {
	Type         string           `json:"type"`
	Dropout      *float64         `json:"dropout"`
	Unk          *string          `json:"unk_token"`
	Prefix       *string          `json:"continuing_subword_prefix"`
	Suffix       *string          `json:"end_of_word_suffix"`
	FuseUnk      bool             `json:"fuse_unk"`
	ByteFallback bool             `json:"byte_fallback"`
	IgnoreMerges bool             `json:"ignore_merges"`
	Vocab        map[string]int32 `json:"vocab"`
	Merges       mergeList        `json:"merges"`
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

// mergeList reads merges in both of their encodings, "a b" and ["a", "b"], and
// writes the second.
type mergeList [][2]string

func (m *mergeList) UnmarshalJSON(data []byte) error {
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
