package tokenizer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
)

func cmpIDs(a, b int32, x, y string) int {
	return cmp.Or(cmp.Compare(a, b), strings.Compare(x, y))
}

// addTokens puts the tokens of the settings behind tokenizer.json's own. One that
// is there already keeps its place; added_tokens_decoder changes its flags.
func (t *Tokenizer) addTokens(s *settings) error {
	list, special := t.addedTokens(), s.specialTexts()
	for _, a := range s.tokens {
		a.Special = a.Special || special[a.Content]
		if i, ok := list.at[a.Content]; ok {
			if s.numbered && t.file.AddedTokens[i].ID == a.ID {
				t.file.AddedTokens[i] = a
			}
			continue
		}
		if a.Content == "" {
			continue
		}
		if id := list.add(a); s.numbered && id != a.ID {
			return fmt.Errorf("%s: added_tokens_decoder: the id of %q is %d, but its place in the vocabulary is %d",
				ConfigFile, a.Content, a.ID, id)
		}
	}
	for _, x := range s.special {
		if _, ok := list.at[x.token.Content]; !ok {
			list.add(x.token)
		}
	}
	return nil
}

// addedTokens are a tokenizer's added tokens while others are put behind them.
type addedTokens struct {
	*Tokenizer
	at   map[string]int // places in file.AddedTokens, by the tokens' text
	next int32          // id of the next token that the vocabulary does not have
}

func (t *Tokenizer) addedTokens() *addedTokens {
	l := &addedTokens{t, map[string]int{}, int32(len(t.tokens))}
	for i := range t.file.AddedTokens {
		content := t.file.AddedTokens[i].Content
		_, known := t.model.ids[content]
		_, twice := l.at[content]
		if !known && !twice && content != "" {
			l.next++
		}
		l.at[content] = i
	}
	return l
}

// add puts a token behind the others and returns the id that it gets there.
func (l *addedTokens) add(a AddedToken) int32 {
	id, known := l.model.ids[a.Content]
	if !known {
		id = l.next
		l.next++
	}
	a.ID = id
	l.at[a.Content] = len(l.file.AddedTokens)
	l.file.AddedTokens = append(l.file.AddedTokens, a)
	return id
}

// Special returns the token of a role (eos_token, bos_token, …), where the files
// beside tokenizer.json name one.
func (t *Tokenizer) Special(role string) (id int32, ok bool) {
	for _, x := range t.settings.special {
		if x.role == role {
			return t.ID(x.token.Content)
		}
	}
	return 0, false
}

// Notes are what an operator should know of the tokenizer's files: fields that
// are passed over.
func (t *Tokenizer) Notes() []string { return t.settings.notes }

// applyPrefixSpace does what add_prefix_space asks for: a pre-tokenizer that is a
// ByteLevel puts a space before the text, or does not. Where there is another,
// transformers leaves it as it is; one whose tokenizer.json says the opposite is
// refused.
func (t *Tokenizer) applyPrefixSpace(s *settings) error {
	if s.prefixSpace == nil {
		return nil
	}
	if isNull(t.file.PreTokenizer) {
		return t.checkPrefix(*s.prefixSpace)
	}
	kind, err := kindOf(t.file.PreTokenizer)
	if err != nil {
		return err
	}
	if kind != "ByteLevel" {
		return t.checkPrefix(*s.prefixSpace)
	}
	var c byteLevelFile
	if err := strict(t.file.PreTokenizer, &c); err != nil {
		return err
	}
	c.Type, c.AddPrefixSpace = kind, *s.prefixSpace
	t.file.PreTokenizer, err = json.Marshal(c)
	return err
}

// checkPrefix refuses a tokenizer.json that puts a mark for a space before texts
// where the configuration says that there is none: transformers would convert the
// model anew.
func (t *Tokenizer) checkPrefix(want bool) error {
	if want {
		return nil // where there is no such mark, transformers adds none to these
	}
	normalizers, err := components(t.file.Normalizer, "normalizers")
	if err != nil {
		return err
	}
	cutters, err := components(t.file.PreTokenizer, "pretokenizers")
	if err != nil {
		return err
	}
	for _, raw := range append(normalizers, cutters...) {
		var c struct {
			Type   string  `json:"type"`
			Scheme *string `json:"prepend_scheme"`
		}
		if err := json.Unmarshal(raw, &c); err != nil {
			return err
		}
		if c.Type == "Prepend" || c.Type == "Metaspace" && (c.Scheme == nil || *c.Scheme != "never") {
			return fmt.Errorf("%s: add_prefix_space is false, and %s has a %s, which adds one: make them agree", ConfigFile, File, c.Type)
		}
	}
	return nil
}

// beginsWithBOS are the classes of transformers that look at add_bos_token and
// add_eos_token, with what the first is where it is missing; they put these tokens
// around a text instead of what tokenizer.json's post-processor adds. All others
// leave that to tokenizer.json, and so do these here where neither field is there:
// transformers 4 and 5 then differ. (5 does not look at the fields at all; with a
// tokenizer.json that says the same the two agree.)
var beginsWithBOS = map[string]bool{
	"LlamaTokenizer": true, "CodeLlamaTokenizer": true, "GemmaTokenizer": true, "CohereTokenizer": true,
	"GPTNeoXTokenizer": false,
}

// applyAround does what add_bos_token and add_eos_token ask for.
func (t *Tokenizer) applyAround(s *settings) error {
	bos, knows := beginsWithBOS[strings.TrimSuffix(s.class, "Fast")]
	if !knows || s.bos == nil && s.eos == nil {
		return nil
	}
	var before, behind []int32
	for _, a := range []struct {
		field, role string
		given       *bool
		otherwise   bool
		into        *[]int32
	}{{"add_bos_token", "bos_token", s.bos, bos, &before}, {"add_eos_token", "eos_token", s.eos, false, &behind}} {
		wanted := a.otherwise
		if a.given != nil {
			wanted = *a.given
		}
		if !wanted {
			continue
		}
		id, ok := t.Special(a.role)
		switch {
		case ok:
			*a.into = []int32{id}
		case a.given != nil:
			return fmt.Errorf("%s: %s is true, and there is no %s", ConfigFile, a.field, a.role)
		default:
			return nil // nothing is said: tokenizer.json's post-processor stays
		}
	}
	var err error
	t.file.PostProcessor, err = aroundJSON(t.Piece, before, behind)
	return err
}

// aroundJSON is a post-processor that puts tokens around a text.
func aroundJSON(name func(int32) string, before, behind []int32) (json.RawMessage, error) {
	type object = map[string]any
	single, tokens := []object{}, object{}
	put := func(ids []int32) {
		for _, id := range ids {
			single = append(single, object{"SpecialToken": object{"id": name(id), "type_id": 0}})
			tokens[name(id)] = object{"id": name(id), "ids": []int32{id}, "tokens": []string{name(id)}}
		}
	}
	put(before)
	single = append(single, object{"Sequence": object{"id": "A", "type_id": 0}})
	put(behind)
	return json.Marshal(object{"type": "TemplateProcessing", "single": single, "pair": []object{},
		"special_tokens": tokens})
}
