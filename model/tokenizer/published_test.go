package tokenizer

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPublishedConfigurations are read without a complaint and without a note: the
// fields of tokenizer_config.json as the models have them that are served here.
func TestPublishedConfigurations(t *testing.T) {
	for name, text := range map[string]string{
		"mistralai/Mixtral-8x7B-v0.1": `{"add_bos_token": true, "add_eos_token": false, "added_tokens_decoder": {
			"0": {"content": "<unk>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true},
			"1": {"content": "<s>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true},
			"2": {"content": "</s>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true}},
			"additional_special_tokens": [], "bos_token": "<s>", "clean_up_tokenization_spaces": false, "eos_token": "</s>",
			"legacy": true, "model_max_length": 1000000000000000019884624838656, "pad_token": null, "sp_model_kwargs": {},
			"spaces_between_special_tokens": false, "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>", "use_default_system_prompt": false}`,
		"mistralai/Mixtral-8x22B-Instruct-v0.1": `{"add_bos_token": true, "add_eos_token": false, "add_prefix_space": null, "added_tokens_decoder": {
			"0": {"content": "<unk>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true},
			"3": {"content": "[INST]", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true}},
			"bos_token": "<s>", "chat_template": [{"name": "default", "template": "{{ messages }}"}, {"name": "tool_use", "template": "{{ tools }}"}],
			"clean_up_tokenization_spaces": false, "eos_token": "</s>", "legacy": false, "model_max_length": 1000000000000000019884624838656,
			"pad_token": null, "sp_model_kwargs": {}, "spaces_between_special_tokens": false, "tokenizer_class": "LlamaTokenizer",
			"unk_token": "<unk>", "use_default_system_prompt": false}`,
		"Qwen/Qwen3-235B-A22B": `{"add_bos_token": false, "add_prefix_space": false, "added_tokens_decoder": {
			"151643": {"content": "<|endoftext|>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true},
			"151667": {"content": "<think>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": false}},
			"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": null, "chat_template": "{{ messages }}",
			"clean_up_tokenization_spaces": false, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 131072,
			"pad_token": "<|endoftext|>", "split_special_tokens": false, "tokenizer_class": "Qwen2Tokenizer", "unk_token": null}`,
		"allenai/OLMoE-1B-7B-0924": `{"add_bos_token": false, "add_eos_token": false, "add_prefix_space": false, "added_tokens_decoder": {
			"1": {"content": "<|padding|>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true},
			"50254": {"content": "                        ", "lstrip": false, "normalized": true, "rstrip": false, "single_word": false, "special": false}},
			"bos_token": null, "clean_up_tokenization_spaces": true, "eos_token": "<|endoftext|>", "extra_special_tokens": {},
			"model_max_length": 1000000000000000019884624838656, "pad_token": "<|padding|>", "tokenizer_class": "GPTNeoXTokenizer", "unk_token": null}`,
	} {
		var fields map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(text), &fields), name)
		s := &settings{}
		require.NoError(t, s.read(fields), name)
		require.Empty(t, s.notes, name)
		require.True(t, s.numbered, name)
		require.NotEmpty(t, s.class, name)
	}
}
