package model

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func TestGenerationDefaults(t *testing.T) {
	s := qwen3MoE.with(fields{"eos_token_id": 7}).must(t)
	g, err := ParseGeneration([]byte(`{"bos_token_id": 3, "do_sample": true, "eos_token_id": [5, 6], "pad_token_id": 3,
		"repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "max_new_tokens": 99, "min_p": null,
		"num_beams": 1, "num_beam_groups": 4, "typical_p": 1.0, "suppress_tokens": [], "transformers_version": "4.51.0"}`), s)
	require.NoError(t, err)
	require.Equal(t, GenerationDefaults{
		DoSample: new(true), Temperature: new(0.7), TopP: new(0.8), TopK: new(20), RepetitionPenalty: new(1.05),
		MaxNewTokens: new(99),
		EOS:          []int32{5, 6}, Unapplied: []string{"num_beam_groups = 4"},
	}, g)
	require.Equal(t, []int32{5, 6}, s.Ends(g))
}

func TestGenerationMayBeAbsent(t *testing.T) {
	s := qwen3MoE.with(fields{"eos_token_id": 7}).must(t)
	g, err := ReadGeneration(fstest.MapFS{}, s)
	require.NoError(t, err)
	require.Equal(t, GenerationDefaults{}, g)
	require.Equal(t, []int32{7}, s.Ends(g))
}

func TestGenerationRefusals(t *testing.T) {
	s := qwen3MoE.must(t)
	for text, want := range map[string]string{
		`{"temperature": -1}`:        "generation_config.json: temperature = -1: is not from 0",
		`{"top_p": 1.5}`:             "top_p = 1.5",
		`{"top_k": -1}`:              "top_k = -1",
		`{"repetition_penalty": 0}`:  "repetition_penalty = 0",
		`{"max_new_tokens": 0}`:      "max_new_tokens = 0",
		`{"eos_token_id": [1, 100]}`: "100 is not in the vocabulary",
		`{"top_k": 1, "top_k": 2}`:   "given twice",
		`{`:                          "generation_config.json is not valid JSON (at byte 1): unexpected end of JSON input",
	} {
		_, err := ParseGeneration([]byte(text), s)
		require.ErrorContains(t, err, want)
	}
}

func TestConfigurationsAreBounded(t *testing.T) {
	long := fstest.MapFS{ConfigFile: {Data: make([]byte, maxConfigBytes+1)}}
	_, err := ReadSpec(long)
	require.ErrorContains(t, err, "config.json: has more than 1048576 bytes")
	_, err = ReadSpec(fstest.MapFS{})
	require.ErrorContains(t, err, ConfigFile)
}
