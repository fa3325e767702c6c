package apitest

import (
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/stretchr/testify/require"
)

// conversation asks for an answer of Tokens tokens at most.
func (s *suite) conversation() openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:               s.Model,
		Messages:            []openai.ChatCompletionMessageParamUnion{openai.UserMessage(s.Prompt)},
		Temperature:         openai.Float(1),
		Seed:                openai.Int(17),
		MaxCompletionTokens: openai.Int(int64(s.Tokens)),
	}
}

func (s *suite) converse(t *testing.T, p openai.ChatCompletionNewParams) *openai.ChatCompletion {
	t.Helper()
	answer, err := s.client.Chat.Completions.New(begin(t), p)
	require.NoError(t, err)
	require.NotEmpty(t, answer.Choices)
	return answer
}

// chat answers, or is refused for the want of a template.
func (s *suite) chat(t *testing.T) {
	if !s.Chat {
		_, err := s.client.Chat.Completions.New(begin(t), s.conversation())
		refuse(t, err, 400, "messages", "no_chat_template")
		return
	}
	answer := s.converse(t, s.conversation())
	require.Equal(t, "assistant", string(answer.Choices[0].Message.Role))
	require.Equal(t, "chat.completion", string(answer.Object))
	require.Positive(t, answer.Usage.PromptTokens)
	require.LessOrEqual(t, answer.Usage.CompletionTokens, int64(s.Tokens))
	require.Contains(t, []string{"stop", "length"}, answer.Choices[0].FinishReason)

	parts := s.conversation()
	parts.Messages = []openai.ChatCompletionMessageParamUnion{
		openai.UserMessage([]openai.ChatCompletionContentPartUnionParam{openai.TextContentPart(s.Prompt)}),
	}
	require.Equal(t, answer.Choices[0].Message.Content, s.converse(t, parts).Choices[0].Message.Content)
}

func (s *suite) chatStream(t *testing.T) {
	s.needsChat(t)
	p := s.conversation()
	p.N = openai.Int(2)
	whole := s.converse(t, p)
	p.StreamOptions.IncludeUsage = openai.Bool(true)
	stream := s.client.Chat.Completions.NewStreaming(begin(t), p)
	defer func() { _ = stream.Close() }()
	var all openai.ChatCompletionAccumulator
	for stream.Next() {
		require.True(t, all.AddChunk(stream.Current()))
	}
	require.NoError(t, stream.Err())
	require.Len(t, all.Choices, 2)
	for i, c := range whole.Choices {
		require.Equal(t, c.Message.Content, all.Choices[i].Message.Content)
		require.Equal(t, "assistant", string(all.Choices[i].Message.Role))
		require.Equal(t, c.FinishReason, all.Choices[i].FinishReason)
	}
	require.Equal(t, whole.Usage.TotalTokens, all.Usage.TotalTokens)
}

func (s *suite) chatLogprobs(t *testing.T) {
	s.needsChat(t)
	p := s.conversation()
	p.Logprobs, p.TopLogprobs = openai.Bool(true), openai.Int(2)
	answer := s.converse(t, p)
	content := answer.Choices[0].Logprobs.Content
	require.Len(t, content, int(answer.Usage.CompletionTokens))
	for _, token := range content {
		require.LessOrEqual(t, token.Logprob, 0.0)
		require.Len(t, token.TopLogprobs, 2)
		require.GreaterOrEqual(t, token.TopLogprobs[0].Logprob, token.TopLogprobs[1].Logprob)
		require.LessOrEqual(t, token.Logprob, token.TopLogprobs[0].Logprob)
	}
}

func (s *suite) chatChoices(t *testing.T) {
	s.needsChat(t)
	p := s.conversation()
	one := s.converse(t, p).Choices[0].Message.Content
	p.N = openai.Int(2)
	two := s.converse(t, p)
	require.Len(t, two.Choices, 2)
	require.Equal(t, one, two.Choices[0].Message.Content)
}

func (s *suite) chatRefusedFields(t *testing.T) {
	for _, c := range []struct {
		field string
		value any
	}{
		{"tool_choice", "auto"},
		{"tool_choice", "required"},
		{"tool_choice", map[string]any{"type": "function", "function": map[string]string{"name": "f"}}},
		{"functions", []any{map[string]string{"name": "f"}}},
		{"function_call", "auto"},
		{"response_format", map[string]string{"type": "json_object"}},
		{"response_format", map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": "x"}}},
		{"modalities", []string{"text", "audio"}},
		{"audio", map[string]string{"voice": "alloy", "format": "wav"}},
		{"prediction", map[string]string{"type": "content", "content": "x"}},
		{"reasoning_effort", "high"},
		{"verbosity", "low"},
		{"documents", []string{"x"}},
		{"web_search_options", map[string]any{}},
	} {
		_, err := s.client.Chat.Completions.New(begin(t), s.conversation(), set([]any{c.field, c.value})...)
		refuse(t, err, 400, c.field, "unsupported_parameter")
	}
}

func (s *suite) needsChat(t *testing.T) {
	if !s.Chat {
		t.Skip("the model has no chat template")
	}
}
