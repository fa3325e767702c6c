package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/tandem-moe/tandem/internal/bounded"
)

// The files beside tokenizer.json that say more of a tokenizer.
const (
	ConfigFile     = "tokenizer_config.json"
	AddedFile      = "added_tokens.json"       // older: tokens and their ids
	SpecialMapFile = "special_tokens_map.json" // older: what tokens are special
)

// maxConfig bounds each of these files, in bytes. Some list thousands of tokens.
const maxConfig = 32 << 20

// Here is what transformers does with these files (4.57.6; scripts/fixtures/
// tokenizer_config.py made the values that the tests hold). Tokens that they name
// and tokenizer.json lacks are added behind its own; where added_tokens_decoder is
// there, the two older files are not read. Fields that change nothing there are
// passed over, too, and a field that is not known is told of (Notes): there it
// would be kept without effect.

// settings are what the files say.
type settings struct {
	class string
	// tokens are those of added_tokens_decoder or added_tokens.json, by id.
	tokens []AddedToken
	// numbered says that the tokens' ids are to be kept: added_tokens_decoder's.
	// Those of added_tokens.json count as an order alone.
	numbered bool
	// special are the tokens by their roles (bos_token, …), in the order in which
	// they are added; roles that have none are not among them.
	special []special

	prefixSpace, bos, eos *bool // add_prefix_space, add_bos_token, add_eos_token
	splitSpecial          bool
	notes                 []string
}

// special is a token with a role. Several have the role of none.
type special struct {
	role  string
	token AddedToken
}

// roles are the special tokens that every tokenizer may have, in transformers'
// order.
var roles = []string{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}

// manyRoles are lists of special tokens, or objects of them by name: transformers
// 4's, and 5's.
var manyRoles = []string{"additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"}

// allRoles are in transformers' order.
var allRoles = slices.Concat(roles, manyRoles)

// passed are the fields that change no ids here: names and versions; how texts
// are padded, cut or returned by a caller who asks for it; how slow tokenizers
// and conversions work; what other packages read. clean_up_tokenization_spaces
// changes text that is decoded at once; vLLM does not apply it, nor is it here.
var passed = strings.Fields(`
	_commit_hash auto_map backend chat_template clean_up_tokenization_spaces device_map errors fix_mistral_regex
	from_slow init_inputs is_local legacy local_files_only max_length max_model_input_sizes merges_file
	model_input_names model_max_length name_or_path pad_to_multiple_of pad_token_id pad_token_type_id padding
	padding_side processor_class response_schema return_token_type_ids sp_model_kwargs spaces_between_special_tokens
	special_tokens_map_file stride tokenizer_file transformers_version trim_offsets truncation truncation_side
	truncation_strategy trust_remote_code use_default_system_prompt use_fast vocab_file vocab_size
`)

// readSettings reads the files; where none is there, nothing is said.
func readSettings(dir fs.FS) (*settings, error) {
	s := &settings{}
	fields, err := readObject(dir, ConfigFile)
	if err != nil {
		return nil, err
	}
	if err := s.read(fields); err != nil {
		return nil, fmt.Errorf("%s: %w", ConfigFile, err)
	}
	if s.numbered {
		return s, nil
	}
	if fields, err = readObject(dir, SpecialMapFile); err != nil {
		return nil, err
	}
	if err := s.readSpecials(fields); err != nil {
		return nil, fmt.Errorf("%s: %w", SpecialMapFile, err)
	}
	if fields, err = readObject(dir, AddedFile); err != nil {
		return nil, err
	}
	if err := s.readAdded(fields); err != nil {
		return nil, fmt.Errorf("%s: %w", AddedFile, err)
	}
	return s, nil
}

// readObject reads a file of one JSON object; one that is not there has no fields.
func readObject(dir fs.FS, name string) (map[string]json.RawMessage, error) {
	data, err := bounded.ReadFile(dir, name, maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the tokenizer: %w", err)
	}
	var fields map[string]json.RawMessage
	if err := atMost(data, ":", maxAdded, 16); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), &fields); err != nil {
		return nil, fmt.Errorf("%s: %w", name, position(err))
	}
	return fields, nil
}

// read reads tokenizer_config.json.
func (s *settings) read(fields map[string]json.RawMessage) error {
	take := func(name string, into any) error {
		raw, ok := fields[name]
		delete(fields, name)
		if !ok || isNull(raw) {
			return nil
		}
		if err := json.Unmarshal(raw, into); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	var decoder map[string]addedFields
	_, s.numbered = fields["added_tokens_decoder"]
	for _, f := range []struct {
		name string
		into any
	}{
		{"tokenizer_class", &s.class},
		{"added_tokens_decoder", &decoder},
		{"add_prefix_space", &s.prefixSpace},
		{"add_bos_token", &s.bos},
		{"add_eos_token", &s.eos},
		{"split_special_tokens", &s.splitSpecial},
	} {
		if err := take(f.name, f.into); err != nil {
			return err
		}
	}
	if err := s.readDecoder(decoder); err != nil {
		return fmt.Errorf("added_tokens_decoder: %w", err)
	}
	if err := s.readSpecials(fields); err != nil {
		return err
	}
	for _, name := range passed {
		delete(fields, name)
	}
	s.tellOf(fields)
	return nil
}

// tellOf notes fields that nobody knows and that say something.
func (s *settings) tellOf(fields map[string]json.RawMessage) {
	var names []string
	for name, raw := range fields {
		known := slices.Contains(manyRoles, name) || strings.HasSuffix(name, "_token")
		if !known && !slices.Contains([]string{"null", "false", "[]", "{}", `""`}, string(raw)) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	const most = 8
	list := strings.Join(names[:min(len(names), most)], ", ")
	if len(names) > most {
		list += fmt.Sprintf(" and %d more", len(names)-most)
	}
	s.notes = append(s.notes, fmt.Sprintf("%s: fields that are not known here are passed over: %q", ConfigFile, list))
}

// addedFields is an added token as these files write it.
type addedFields struct {
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized *bool  `json:"normalized"` // missing: unless it is special
	Special    bool   `json:"special"`
}

// token is the added token, special where the role says so.
func (f addedFields) token(special bool) AddedToken {
	special = special || f.Special
	normalized := !special
	if f.Normalized != nil {
		normalized = *f.Normalized
	}
	return AddedToken{
		Content: f.Content, SingleWord: f.SingleWord, LStrip: f.LStrip, RStrip: f.RStrip,
		Normalized: normalized, Special: special,
	}
}

func (s *settings) readDecoder(decoder map[string]addedFields) error {
	for key, f := range decoder {
		var id int32
		if err := json.Unmarshal([]byte(key), &id); err != nil || id < 0 {
			return fmt.Errorf("%q is no id", key)
		}
		t := f.token(false)
		t.ID = id
		s.tokens = append(s.tokens, t)
	}
	s.sortTokens()
	return nil
}

// readAdded reads added_tokens.json: tokens and their ids.
func (s *settings) readAdded(fields map[string]json.RawMessage) error {
	special := s.specialTexts()
	for content, raw := range fields {
		var id int32
		if err := json.Unmarshal(raw, &id); err != nil || id < 0 {
			return fmt.Errorf("%.40q: %.40s is no id", content, raw)
		}
		t := addedFields{Content: content}.token(special[content])
		t.ID = id
		s.tokens = append(s.tokens, t)
	}
	s.sortTokens()
	return nil
}

func (s *settings) sortTokens() {
	slices.SortFunc(s.tokens, func(a, b AddedToken) int {
		return cmpIDs(a.ID, b.ID, a.Content, b.Content)
	})
}

// readSpecials reads the tokens with a role, in place of those that had it.
func (s *settings) readSpecials(fields map[string]json.RawMessage) error {
	for _, role := range roles {
		raw, ok := fields[role]
		if !ok || isNull(raw) {
			continue
		}
		tokens, err := specialTokens(raw)
		if err != nil || len(tokens) > 1 {
			return fmt.Errorf("%s: want a token, got %.40s", role, raw)
		}
		s.replace(role, tokens)
	}
	for _, role := range manyRoles {
		raw, ok := fields[role]
		if !ok || isNull(raw) {
			continue
		}
		tokens, err := specialTokens(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", role, err)
		}
		s.replace(role, tokens)
	}
	return nil
}

// replace gives a role other tokens. Roles keep transformers' order.
func (s *settings) replace(role string, tokens []AddedToken) {
	s.special = slices.DeleteFunc(s.special, func(x special) bool { return x.role == role })
	for _, t := range tokens {
		if t.Content != "" {
			s.special = append(s.special, special{role, t})
		}
	}
	place := func(role string) int { return slices.Index(allRoles, role) }
	slices.SortStableFunc(s.special, func(a, b special) int { return place(a.role) - place(b.role) })
}

// specialTexts are the texts of all tokens with a role.
func (s *settings) specialTexts() map[string]bool {
	texts := make(map[string]bool, len(s.special))
	for _, x := range s.special {
		texts[x.token.Content] = true
	}
	return texts
}

// specialTokens reads a token, which is a string or an object; a list of them; or
// an object of them by their names.
func specialTokens(raw json.RawMessage) ([]AddedToken, error) {
	if err := atMost(raw, ",", maxAdded, 1); err != nil {
		return nil, err
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return []AddedToken{addedFields{Content: text}.token(true)}, nil
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nil, fmt.Errorf("want tokens: %w", err)
		}
		if _, ok := fields["content"]; ok {
			var f addedFields
			err := json.Unmarshal(raw, &f)
			return []AddedToken{f.token(true)}, err
		}
		var err error
		if list, err = ordered(raw); err != nil {
			return nil, err
		}
	}
	var out []AddedToken
	for _, item := range list {
		tokens, err := specialToken(item)
		if err != nil {
			return nil, err
		}
		out = append(out, tokens)
	}
	return out, nil
}

// specialToken reads one token.
func specialToken(raw json.RawMessage) (AddedToken, error) {
	var f addedFields
	if json.Unmarshal(raw, &f.Content) == nil {
		return f.token(true), nil
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return AddedToken{}, fmt.Errorf("%.40s is no token: %w", raw, err)
	}
	return f.token(true), nil
}

// ordered are an object's values in their order.
func ordered(raw json.RawMessage) ([]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	var out []json.RawMessage
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	for d.More() {
		if _, err := d.Token(); err != nil {
			return nil, err
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}
