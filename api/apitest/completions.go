package apitest

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/openai/openai-go/v3"
	"github.com/stretchr/testify/require"
)

func (s *suite) models(t *testing.T) {
	page, err := s.client.Models.List(begin(t))
	require.NoError(t, err)
	require.NotEmpty(t, page.Data)
	model, err := s.client.Models.Get(begin(t), s.Model)
	require.NoError(t, err)
	require.Equal(t, s.Model, model.ID)
	_, err = s.client.Models.Get(begin(t), "no-such-model")
	refuse(t, err, 404, "model", "model_not_found")
}

func (s *suite) completion(t *testing.T) {
	answer := s.complete(t, s.greedy())
	require.Len(t, answer.Choices, 1)
	require.NotEmpty(t, answer.Choices[0].Text)
	require.Equal(t, openai.CompletionChoiceFinishReasonLength, answer.Choices[0].FinishReason)
	require.EqualValues(t, s.Tokens, answer.Usage.CompletionTokens)
	require.Positive(t, answer.Usage.PromptTokens)
	require.Equal(t, answer.Usage.PromptTokens+answer.Usage.CompletionTokens, answer.Usage.TotalTokens)
	require.Equal(t, s.Model, answer.Model)
	require.Equal(t, answer.Choices[0].Text, s.complete(t, s.greedy()).Choices[0].Text)
}

// streamed puts a streamed answer together.
func (s *suite) streamed(t *testing.T, p openai.CompletionNewParams) (texts map[int64]string, reasons map[int64]string,
	usage openai.CompletionUsage) {
	t.Helper()
	texts, reasons = map[int64]string{}, map[int64]string{}
	stream := s.client.Completions.NewStreaming(begin(t), p)
	defer func() { _ = stream.Close() }()
	for stream.Next() {
		chunk := stream.Current()
		if chunk.Usage.TotalTokens > 0 {
			require.Empty(t, chunk.Choices)
			usage = chunk.Usage
		}
		for _, c := range chunk.Choices {
			require.Empty(t, reasons[c.Index], "a choice goes on after its end")
			texts[c.Index] += c.Text
			reasons[c.Index] = string(c.FinishReason)
		}
	}
	require.NoError(t, stream.Err())
	return texts, reasons, usage
}

// stream: a streamed answer is the whole one in pieces.
func (s *suite) stream(t *testing.T) {
	for _, p := range []openai.CompletionNewParams{s.greedy(), s.sampled(11)} {
		p.N = openai.Int(2)
		whole := s.complete(t, p)
		p.StreamOptions.IncludeUsage = openai.Bool(true)
		texts, reasons, usage := s.streamed(t, p)
		for i, c := range whole.Choices {
			require.Equal(t, c.Text, texts[int64(i)])
			require.Equal(t, string(c.FinishReason), reasons[int64(i)])
		}
		require.Equal(t, whole.Usage.CompletionTokens, usage.CompletionTokens)
		require.Equal(t, whole.Usage.PromptTokens, usage.PromptTokens)
	}
}

// stop: a stop string from the middle of an output cuts it there.
func (s *suite) stop(t *testing.T) {
	text := s.complete(t, s.greedy()).Choices[0].Text
	from := len(text) / 2
	for !utf8.RuneStart(text[from]) {
		from--
	}
	stop := text[from:]
	if n := 3; utf8.RuneCountInString(stop) > n {
		stop = string([]rune(stop)[:n])
	}
	p := s.greedy()
	p.Stop.OfStringArray = []string{"\x00never", stop}
	answer := s.complete(t, p)
	before, _, _ := strings.Cut(text, stop)
	require.Equal(t, before, answer.Choices[0].Text)
	require.Equal(t, openai.CompletionChoiceFinishReasonStop, answer.Choices[0].FinishReason)
	texts, reasons, _ := s.streamed(t, p)
	require.Equal(t, before, texts[0])
	require.Equal(t, "stop", reasons[0])

	included := s.complete(t, p, "include_stop_str_in_output", true)
	require.Equal(t, before+stop, included.Choices[0].Text)
}

func (s *suite) seed(t *testing.T) {
	same := s.complete(t, s.sampled(5)).Choices[0].Text
	require.Equal(t, same, s.complete(t, s.sampled(5)).Choices[0].Text)
	others := map[string]bool{}
	for seed := range int64(4) {
		others[s.complete(t, s.sampled(seed)).Choices[0].Text] = true
	}
	require.Greater(t, len(others), 1, "four seeds give one text")
}

// choices: the first of two is what one alone is.
func (s *suite) choices(t *testing.T) {
	one, p := s.complete(t, s.sampled(3)), s.sampled(3)
	p.N = openai.Int(3)
	three := s.complete(t, p)
	require.Len(t, three.Choices, 3)
	for i, c := range three.Choices {
		require.EqualValues(t, i, c.Index)
	}
	require.Equal(t, one.Choices[0].Text, three.Choices[0].Text)
	require.Equal(t, one.Usage.PromptTokens, three.Usage.PromptTokens)
	require.LessOrEqual(t, three.Usage.CompletionTokens, int64(3*s.Tokens))
	require.GreaterOrEqual(t, three.Usage.CompletionTokens, one.Usage.CompletionTokens)
}

// prompts: a list gives what each prompt gives alone.
func (s *suite) prompts(t *testing.T) {
	prompts := []string{s.Prompt, s.Prompt + s.Prompt, s.Prompt}
	p := s.sampled(9)
	p.Prompt = openai.CompletionNewParamsPromptUnion{OfArrayOfStrings: prompts}
	p.N = openai.Int(2)
	list := s.complete(t, p)
	require.Len(t, list.Choices, 6)
	for i, prompt := range prompts {
		p.Prompt = openai.CompletionNewParamsPromptUnion{OfString: openai.String(prompt)}
		alone := s.complete(t, p)
		for n, c := range alone.Choices {
			require.Equal(t, c.Text, list.Choices[2*i+n].Text)
		}
	}
}

// vllmChoice is what vLLM adds to a choice.
type vllmChoice struct {
	TokenIDs       []int64 `json:"token_ids"`
	PromptTokenIDs []int64 `json:"prompt_token_ids"`
	StopReason     any     `json:"stop_reason"`
}

func added(t *testing.T, c openai.CompletionChoice) (v vllmChoice) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(c.RawJSON()), &v))
	return v
}

// withIDs is the greedy answer and its token ids.
func (s *suite) withIDs(t *testing.T) (openai.CompletionChoice, vllmChoice) {
	t.Helper()
	c := s.complete(t, s.greedy(), "return_token_ids", true).Choices[0]
	return c, added(t, c)
}

// tokenIDs: a prompt of ids is the same as its text, and an output's ids are its
// text; the last of them ends the output as a stop id.
func (s *suite) tokenIDs(t *testing.T) {
	c, ids := s.withIDs(t)
	require.Len(t, ids.TokenIDs, s.Tokens)
	require.Equal(t, c.Text, s.detokenize(t, ids.TokenIDs))

	p := s.greedy()
	p.Prompt = openai.CompletionNewParamsPromptUnion{OfArrayOfTokens: ids.PromptTokenIDs}
	require.Equal(t, c.Text, s.complete(t, p).Choices[0].Text)
	p.Prompt = openai.CompletionNewParamsPromptUnion{OfArrayOfTokenArrays: [][]int64{ids.PromptTokenIDs,
		ids.PromptTokenIDs[:1]}}
	two := s.complete(t, p)
	require.Len(t, two.Choices, 2)
	require.Equal(t, c.Text, two.Choices[0].Text)

	stop := ids.TokenIDs[3]
	stopped := added(t, s.complete(t, s.greedy(), "return_token_ids", true, "stop_token_ids", []int64{stop}).Choices[0])
	require.EqualValues(t, stop, stopped.StopReason)
	require.Equal(t, stop, stopped.TokenIDs[len(stopped.TokenIDs)-1])
	require.Equal(t, ids.TokenIDs[:len(stopped.TokenIDs)], stopped.TokenIDs)
}

// logprobs: those of an output add up to its text, and the best candidate of a
// greedy one is the token itself.
func (s *suite) logprobs(t *testing.T) {
	p := s.greedy()
	p.Logprobs = openai.Int(3)
	c := s.complete(t, p).Choices[0]
	require.Equal(t, c.Text, joined(c.Logprobs.Tokens))
	require.Len(t, c.Logprobs.TokenLogprobs, s.Tokens)
	for i, token := range c.Logprobs.Tokens {
		own := c.Logprobs.TokenLogprobs[i]
		require.LessOrEqual(t, own, 0.0)
		top := c.Logprobs.TopLogprobs[i]
		require.InDelta(t, own, top[token], 0)
		require.GreaterOrEqual(t, len(top), 1)
		require.LessOrEqual(t, len(top), 4)
		require.LessOrEqual(t, probability(top), 1.001)
	}
	p.Logprobs = openai.Int(0)
	for _, top := range s.complete(t, p).Choices[0].Logprobs.TopLogprobs {
		require.Len(t, top, 1)
	}
}

func probability(top map[string]float64) (sum float64) {
	for _, l := range top {
		sum += math.Exp(l)
	}
	return sum
}

// joined is the text of tokens; "bytes:\x…" are pieces of characters.
func joined(tokens []string) string {
	var b strings.Builder
	for _, t := range tokens {
		raw, pieces := strings.CutPrefix(t, "bytes:")
		if !pieces {
			b.WriteString(t)
			continue
		}
		for _, hex := range strings.Split(raw, `\x`)[1:] {
			var c byte
			_, _ = fmt.Sscanf(hex, "%02x", &c)
			b.WriteByte(c)
		}
	}
	return b.String()
}

// echo: with max_tokens 0 the answer is the prompt's own log-probabilities; of an
// output sent as a prompt they are those that it had as an output, to the bit.
func (s *suite) echo(t *testing.T) {
	p := s.greedy()
	p.Logprobs = openai.Int(2)
	output := s.complete(t, p, "return_token_ids", true).Choices[0]
	ids := added(t, output)
	p.Prompt = openai.CompletionNewParamsPromptUnion{OfArrayOfTokens: append(ids.PromptTokenIDs, ids.TokenIDs...)}
	p.Echo, p.MaxTokens = openai.Bool(true), openai.Int(0)
	answer := s.complete(t, p)
	c := answer.Choices[0]
	require.Equal(t, s.Prompt+output.Text, c.Text)
	require.Zero(t, answer.Usage.CompletionTokens)
	echoed, own := listed(t, c), listed(t, output)
	require.Nil(t, echoed.TokenLogprobs[0])
	require.Nil(t, echoed.TopLogprobs[0])
	prompt := len(ids.PromptTokenIDs)
	require.Equal(t, own.Tokens, echoed.Tokens[prompt:])
	require.Equal(t, own.TokenLogprobs, echoed.TokenLogprobs[prompt:])
	require.Equal(t, own.TopLogprobs, echoed.TopLogprobs[prompt:])
	for i := 1; i < len(echoed.Tokens); i++ {
		require.NotNil(t, echoed.TokenLogprobs[i])
		require.GreaterOrEqual(t, echoed.TextOffset[i], echoed.TextOffset[i-1])
	}
	require.Equal(t, utf8.RuneCountInString(s.Prompt), echoed.TextOffset[prompt])

	p.MaxTokens = openai.Int(1)
	more := s.complete(t, p).Choices[0]
	require.True(t, strings.HasPrefix(more.Text, c.Text))
	require.Len(t, listed(t, more).Tokens, len(echoed.Tokens)+1)
	texts, _, _ := s.streamed(t, p)
	require.Equal(t, more.Text, texts[0])
}

// lists are a choice's log-probabilities, null where there is none, which the
// client's own type has no place for.
type lists struct {
	TextOffset    []int                `json:"text_offset"`
	TokenLogprobs []*float64           `json:"token_logprobs"`
	Tokens        []string             `json:"tokens"`
	TopLogprobs   []map[string]float64 `json:"top_logprobs"`
}

func listed(t *testing.T, c openai.CompletionChoice) lists {
	t.Helper()
	var choice struct {
		Logprobs lists `json:"logprobs"`
	}
	require.NoError(t, json.Unmarshal([]byte(c.RawJSON()), &choice))
	return choice.Logprobs
}

func (s *suite) unknownModel(t *testing.T) {
	p := s.greedy()
	p.Model = "no-such-model"
	_, err := s.client.Completions.New(begin(t), p)
	refuse(t, err, 404, "model", "model_not_found")
}

func (s *suite) longPrompt(t *testing.T) {
	limit := s.context(t)
	p := s.greedy()
	p.Prompt = openai.CompletionNewParamsPromptUnion{OfArrayOfTokens: make([]int64, limit+10)}
	_, err := s.client.Completions.New(begin(t), p)
	refuse(t, err, 400, "prompt", "context_length_exceeded",
		fmt.Sprintf("This model's maximum context length is %d tokens. However, you requested %d tokens (%d in the prompt, %d in the completion).",
			limit, limit+10+s.Tokens, limit+10, s.Tokens))

	p = s.greedy()
	p.MaxTokens = openai.Int(int64(limit))
	_, err = s.client.Completions.New(begin(t), p)
	refuse(t, err, 400, "prompt", "context_length_exceeded", strconv.Itoa(limit), "in the completion")
}

func (s *suite) refusedFields(t *testing.T) {
	for _, c := range []struct {
		field string
		value any
		code  string
	}{
		{"suffix", "x", "unsupported_parameter"},
		{"best_of", 5, "unsupported_parameter"},
		{"response_format", map[string]string{"type": "json_object"}, "unsupported_parameter"},
		{"temperature", "hot", "invalid_type"},
		{"temperature", -1, "out_of_range"},
		{"n", 0, "out_of_range"},
		{"logprobs", 1000, "out_of_range"},
		{"prompt", []string{}, ""},
		{"prompt", []int{}, ""},
		{"prompt", []int{-5}, ""},
		{"prompt", []int{1 << 30}, ""},
		{"stop", make([]string, 65), ""},
	} {
		_, err := s.client.Completions.New(begin(t), s.greedy(), set([]any{c.field, c.value})...)
		refuse(t, err, 400, c.field, c.code)
	}
}

// cancellation: when the client leaves, the engine stops.
func (s *suite) cancellation(t *testing.T) {
	s.idle(t)
	ctx, cancel := context.WithCancel(begin(t))
	defer cancel()
	p := s.greedy()
	p.N = openai.Int(2)
	p.MaxTokens = openai.Int(int64(s.context(t) / 2))
	stream := s.client.Completions.NewStreaming(ctx, p, set([]any{"ignore_eos", true})...)
	require.True(t, stream.Next(), "%v", stream.Err())
	cancel()
	for stream.Next() {
		continue // what is under way
	}
	require.NoError(t, stream.Close())
	s.idle(t)
}
