package tokenizer

import (
	"encoding/json"
	"fmt"
)

// postProcessor puts what a model expects around a text's ids: begin-of-sequence
// tokens and the like.
type postProcessor func(ids []int32) []int32

// around puts ids before and behind.
func around(before, behind []int32) postProcessor {
	return func(ids []int32) []int32 {
		out := make([]int32, 0, len(before)+len(ids)+len(behind))
		return append(append(append(out, before...), ids...), behind...)
	}
}

// postProcessors are the makers of tokenizer.json's post_processor.
var postProcessors = map[string]func(json.RawMessage) (postProcessor, error){
	"ByteLevel": func(raw json.RawMessage) (postProcessor, error) {
		return around(nil, nil), strict(raw, &byteLevelFile{})
	},
	"BertProcessing":     makeClsSep,
	"RobertaProcessing":  makeClsSep,
	"TemplateProcessing": makeTemplate,
}

// clsSep is a BertProcessing or RobertaProcessing; a token is its string and id.
type clsSep struct {
	typed
	Sep            tokenWithID `json:"sep"`
	Cls            tokenWithID `json:"cls"`
	TrimOffsets    bool        `json:"trim_offsets"`
	AddPrefixSpace bool        `json:"add_prefix_space"`
}

type tokenWithID struct{ id int32 }

func (t *tokenWithID) UnmarshalJSON(data []byte) error {
	var token string
	want := 2
	pair := []any{&token, &t.id}
	if err := json.Unmarshal(data, &pair); err != nil {
		return err
	}
	if len(pair) != want {
		return fmt.Errorf("want a token and its id, got %s", data)
	}
	return nil
}

func makeClsSep(raw json.RawMessage) (postProcessor, error) {
	var c clsSep
	err := strict(raw, &c)
	return around([]int32{c.Cls.id}, []int32{c.Sep.id}), err
}

// templateFile is a TemplateProcessing. Pair is for two texts at once, which
// nothing here encodes.
type templateFile struct {
	typed
	Single        []templatePiece `json:"single"`
	Pair          json.RawMessage `json:"pair"`
	SpecialTokens map[string]struct {
		ID     string          `json:"id"`
		IDs    []int32         `json:"ids"`
		Tokens json.RawMessage `json:"tokens"`
	} `json:"special_tokens"`
}

// templatePiece is the text, or a special token.
type templatePiece struct {
	Sequence     *templateID `json:"Sequence"`
	SpecialToken *templateID `json:"SpecialToken"`
}

type templateID struct {
	ID     string `json:"id"`
	TypeID int    `json:"type_id"`
}

func makeTemplate(raw json.RawMessage) (postProcessor, error) {
	var c templateFile
	if err := strict(raw, &c); err != nil {
		return nil, err
	}
	var parts [2][]int32 // before the text, behind it
	texts := 0
	for i, p := range c.Single {
		switch {
		case p.Sequence != nil && p.SpecialToken == nil && p.Sequence.ID == "A":
			texts++
		case p.SpecialToken != nil && p.Sequence == nil:
			token, ok := c.SpecialTokens[p.SpecialToken.ID]
			if !ok {
				return nil, fmt.Errorf("single[%d]: special_tokens has no %q", i, p.SpecialToken.ID)
			}
			if len(parts[0])+len(parts[1])+len(token.IDs) > maxAround {
				return nil, fmt.Errorf("single adds more than %d tokens", maxAround)
			}
			parts[min(texts, 1)] = append(parts[min(texts, 1)], token.IDs...)
		default:
			return nil, fmt.Errorf("single[%d]: want the Sequence A or a SpecialToken", i)
		}
	}
	if texts != 1 {
		return nil, fmt.Errorf("single has the text %d times, want once", texts)
	}
	return around(parts[0], parts[1]), nil
}
