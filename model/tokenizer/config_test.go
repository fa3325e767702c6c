package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// TestConfigs: the files beside tokenizer.json change ids as transformers does it.
// See scripts/fixtures/tokenizer_config.py; the first cases are those that an
// issue brought, with the values that transformers 5 gives, too.
func TestConfigs(t *testing.T) {
	var f struct {
		Tokenizer json.RawMessage
		Cases     []struct {
			Name  string
			Files map[string]json.RawMessage
			Texts []struct {
				Text         string
				IDs, Special []int32
			}
			EOS *int32
		}
	}
	readJSON(t, "configs.json", &f)
	require.NotEmpty(t, f.Cases)
	for _, c := range f.Cases {
		t.Run(c.Name, func(t *testing.T) {
			dir := fstest.MapFS{File: {Data: f.Tokenizer}}
			for name, data := range c.Files {
				dir[name] = &fstest.MapFile{Data: data}
			}
			tok, err := LoadFS(dir)
			require.NoError(t, err)
			for _, x := range c.Texts {
				checkIDs(t, x.IDs, encoded(tok, x.Text, false), x.Text)
				checkIDs(t, x.Special, encoded(tok, x.Text, true), x.Text)
				require.LessOrEqual(t, tok.LeastTokens(x.Text), len(x.IDs))
			}
			eos, ok := tok.Special("eos_token")
			require.Equal(t, c.EOS != nil, ok)
			if ok {
				require.Equal(t, *c.EOS, eos)
			}
		})
	}
}

// TestIssueConfigs: the values that the issue gives.
func TestIssueConfigs(t *testing.T) {
	var f struct{ Tokenizer json.RawMessage }
	readJSON(t, "configs.json", &f)
	split := []int32{98, 61, 125, 102, 111, 101, 125, 63}
	for _, c := range []struct {
		file, fields, text string
		want               []int32
	}{
		{ConfigFile, `{"added_tokens_decoder": {"257": {"content": "<|im_end|>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true}}}`, "a<|im_end|>", []int32{98, 257}},
		{ConfigFile, `{"additional_special_tokens": ["<|im_end|>"]}`, "a<|im_end|>", []int32{98, 257}},
		{AddedFile, `{"<|im_end|>": 257}`, "a<|im_end|>", []int32{98, 257}},
		{ConfigFile, `{"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true}`, "ab", []int32{33, 98, 99}},
		{ConfigFile, `{"split_special_tokens": true}`, "a<|end|>", split},
	} {
		tok, err := LoadFS(fstest.MapFS{File: {Data: f.Tokenizer}, c.file: {Data: []byte(c.fields)}})
		require.NoError(t, err)
		require.Equal(t, c.want, encoded(tok, c.text, true), c.fields)
	}
}

// published are the tokenizer_config.json of models that people serve, with their
// tokens cut to one or two.
var published = map[string]string{
	"Mixtral": `{"add_bos_token": true, "add_eos_token": false, "add_prefix_space": null, "added_tokens_decoder": {"0": {"content": "<unk>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true}},
		"additional_special_tokens": [], "bos_token": "<unk>", "chat_template": "x", "clean_up_tokenization_spaces": false, "eos_token": "<unk>", "legacy": false, "model_max_length": 1000000000000000019884624838656,
		"pad_token": null, "sp_model_kwargs": {}, "spaces_between_special_tokens": false, "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>", "use_default_system_prompt": false}`,
	"Qwen3": `{"add_bos_token": false, "add_prefix_space": false, "added_tokens_decoder": {"0": {"content": "<unk>", "special": true}}, "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": null, "chat_template": "x",
		"clean_up_tokenization_spaces": false, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 131072, "pad_token": "<|endoftext|>", "split_special_tokens": false, "tokenizer_class": "Qwen2Tokenizer", "unk_token": null}`,
	"OLMoE": `{"add_bos_token": false, "add_eos_token": false, "add_prefix_space": false, "added_tokens_decoder": {"0": {"content": "<unk>", "special": false}, "3": {"content": "  ", "normalized": true, "special": false}}, "bos_token": null,
		"clean_up_tokenization_spaces": true, "eos_token": "<|endoftext|>", "model_max_length": 1000000000000000019884624838656, "pad_token": "<|padding|>", "tokenizer_class": "GPTNeoXTokenizer", "unk_token": null}`,
	"gpt-oss": `{"added_tokens_decoder": {"0": {"content": "<unk>", "special": true}}, "bos_token": "<|startoftext|>", "clean_up_tokenization_spaces": false, "eos_token": "<|return|>", "extra_special_tokens": {},
		"model_input_names": ["input_ids", "attention_mask"], "model_max_length": 1000000000000000019884624838656, "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}`,
	"DeepSeek": `{"add_bos_token": true, "add_eos_token": false, "bos_token": {"__type": "AddedToken", "content": "<bos>", "lstrip": false, "normalized": true, "rstrip": false, "single_word": false},
		"clean_up_tokenization_spaces": false, "eos_token": {"__type": "AddedToken", "content": "<eos>", "lstrip": false, "normalized": true, "rstrip": false, "single_word": false}, "legacy": true, "model_max_length": 16384,
		"pad_token": {"__type": "AddedToken", "content": "<eos>", "lstrip": false, "normalized": true, "rstrip": false, "single_word": false}, "sp_model_kwargs": {}, "unk_token": null, "tokenizer_class": "LlamaTokenizerFast"}`,
	"transformers 5": `{"add_prefix_space": null, "backend": "tokenizers", "bos_token": "<unk>", "clean_up_tokenization_spaces": false, "eos_token": "<unk>", "extra_special_tokens": ["<unk>"], "is_local": true, "model_max_length": 2048,
		"pad_token": "<unk>", "tokenizer_class": "TokenizersBackend", "unk_token": "<unk>"}`,
}

// withUnk is a tokenizer.json that has <unk> as an added token.
const withUnk = `{"version": "1.0", "added_tokens": [{"id": 0, "content": "<unk>", "special": true}], "model": {"type": "BPE", "vocab": {"<unk>": 0, "a": 1, "b": 2}, "merges": []}}`

// TestPublishedConfigs: none of them is refused, or has anything to tell of.
func TestPublishedConfigs(t *testing.T) {
	for name, config := range published {
		tok, err := LoadFS(fstest.MapFS{File: {Data: []byte(withUnk)}, ConfigFile: {Data: []byte(config)}})
		require.NoError(t, err, name)
		require.Empty(t, tok.Notes(), name)
	}
}

// TestConfigsRefused: what cannot be done as it says is refused by name, what is
// not known is told of.
func TestConfigsRefused(t *testing.T) {
	load := func(tokenizer, name, data string) (*Tokenizer, error) {
		return LoadFS(fstest.MapFS{File: {Data: []byte(tokenizer)}, name: {Data: []byte(data)}})
	}
	metaspace := fmt.Sprintf(small, `, "pre_tokenizer": {"type": "Metaspace", "replacement": "_"}`)
	plain := fmt.Sprintf(small, "")
	for _, c := range []struct{ tokenizer, name, data, want string }{
		{plain, ConfigFile, `[]`, ConfigFile},
		{plain, ConfigFile, `{`, ConfigFile},
		{plain, ConfigFile, `{"added_tokens_decoder": {"9": {"content": "x"}}}`, `the id of "x" is 9, but its place in the vocabulary is 3`},
		{plain, ConfigFile, `{"added_tokens_decoder": {"x": {"content": "x"}}}`, `"x" is no id`},
		{plain, ConfigFile, `{"added_tokens_decoder": {"-1": {"content": "x"}}}`, `"-1" is no id`},
		{plain, ConfigFile, `{"added_tokens_decoder": []}`, "added_tokens_decoder"},
		{plain, ConfigFile, `{"eos_token": 1}`, "eos_token"},
		{plain, ConfigFile, `{"eos_token": ["a", "b"]}`, "eos_token: want a token"},
		{plain, ConfigFile, `{"additional_special_tokens": 1}`, "additional_special_tokens"},
		{plain, ConfigFile, `{"additional_special_tokens": ["a"` + strings.Repeat(`, "b"`, maxAdded+1) + `]}`,
			"additional_special_tokens: more than 131072 entries"},
		{plain, ConfigFile, `{"split_special_tokens": "yes"}`, "split_special_tokens"},
		{plain, ConfigFile, `{"tokenizer_class": "LlamaTokenizer", "add_bos_token": true}`, "add_bos_token is true, and there is no bos_token"},
		{metaspace, ConfigFile, `{"add_prefix_space": false}`, "add_prefix_space is false"},
		{plain, SpecialMapFile, `{"eos_token": 1}`, SpecialMapFile},
		{plain, AddedFile, `{"x": "y"}`, AddedFile},
	} {
		_, err := load(c.tokenizer, c.name, c.data)
		require.ErrorContains(t, err, c.want, "%.80s", c.data)
	}
	tok, err := load(plain, ConfigFile, `{"nobody_knows": 1, "neither": "x", "empty": null}`)
	require.NoError(t, err)
	require.Equal(t, []string{`tokenizer_config.json: fields that are not known here are passed over: "neither, nobody_knows"`}, tok.Notes())
}

// FuzzTokenizerConfig: whatever the files beside tokenizer.json say, they are read
// or refused, and what is read encodes.
func FuzzTokenizerConfig(f *testing.F) {
	for _, config := range published {
		f.Add([]byte(config), []byte(`{"eos_token": "b", "additional_special_tokens": ["x", {"content": "y", "lstrip": true}]}`), []byte(`{"z": 3}`))
		f.Add([]byte(config[:len(config)/2]), []byte(`{"eos_token`), []byte(``))
	}
	f.Add([]byte(`{"split_special_tokens": true, "tokenizer_class": "GemmaTokenizer", "bos_token": "a", "extra_special_tokens": {"q": "q"}}`), []byte(`{}`), []byte(`{"a": 0}`))
	f.Fuzz(func(t *testing.T, config, special, added []byte) {
		dir := fstest.MapFS{File: {Data: []byte(withUnk)}, ConfigFile: {Data: config}, SpecialMapFile: {Data: special},
			AddedFile: {Data: added}}
		before := allocated()
		tok, err := LoadFS(dir)
		require.Less(t, allocated()-before, uint64(8<<20+4096*(len(config)+len(special)+len(added))))
		if err != nil {
			return
		}
		for _, text := range []string{"", "ab<unk>a", " a b\xff", string(config)} {
			ids, err := tok.Encode(t.Context(), text, true)
			if err != nil {
				require.ErrorIs(t, err, ErrTooMuchWork)
				continue
			}
			for _, id := range ids {
				require.True(t, tok.Has(id))
			}
		}
		written, err := json.Marshal(tok)
		require.NoError(t, err)
		_, err = parseAlone(written)
		require.NoError(t, err)
	})
}
