package api

import (
	"net/http"
	"strconv"

	"github.com/tandem-moe/tandem/serve/completion"
)

// Usage counts tokens, in OpenAI's form.
type Usage struct {
	PromptTokens     int           `json:"prompt_tokens"`
	CompletionTokens int           `json:"completion_tokens"`
	TotalTokens      int           `json:"total_tokens"`
	PromptDetails    PromptDetails `json:"prompt_tokens_details"`
}

// PromptDetails says how many prompt tokens a cached prefix saved.
type PromptDetails struct {
	CachedTokens int `json:"cached_tokens"`
}

func usageOf(u completion.Usage) Raw {
	return encode(Usage{
		PromptTokens: u.Prompt, CompletionTokens: u.Completion, TotalTokens: u.Prompt + u.Completion,
		PromptDetails: PromptDetails{CachedTokens: u.Cached},
	})
}

// chunkUsage is the usage field of an event: absent (nil), null, or the counts
// so far.
func (o *StreamOptions) chunkUsage(u completion.Usage) Raw {
	switch {
	case o == nil:
		return nil
	case o.ContinuousUsageStats:
		return usageOf(u)
	case o.IncludeUsage:
		return Raw("null")
	default:
		return nil
	}
}

// envelope is what all completions and chunks begin with.
type envelope struct {
	ID                string `json:"id"`
	Object            string `json:"object"`
	Created           int64  `json:"created"`
	Model             string `json:"model"`
	SystemFingerprint string `json:"system_fingerprint,omitempty"`
}

// TextCompletion is the answer of /v1/completions, and a chunk of it.
type TextCompletion struct {
	envelope
	Choices []TextChoice `json:"choices"`
	Usage   Raw          `json:"usage,omitempty"`
}

// TextChoice is a choice, or a piece of it.
type TextChoice struct {
	Index          int           `json:"index"`
	Text           string        `json:"text"`
	Logprobs       *TextLogprobs `json:"logprobs"`
	FinishReason   *string       `json:"finish_reason"`
	StopReason     any           `json:"stop_reason,omitempty"`
	PromptTokenIDs []int32       `json:"prompt_token_ids,omitempty"`
	TokenIDs       *[]int32      `json:"token_ids,omitempty"`
}

// ChatCompletion is the answer of /v1/chat/completions.
type ChatCompletion struct {
	envelope
	Choices        []ChatChoice `json:"choices"`
	Usage          Raw          `json:"usage"`
	PromptTokenIDs []int32      `json:"prompt_token_ids,omitempty"`
}

// ChatChoice is a choice of a whole answer.
type ChatChoice struct {
	Index        int           `json:"index"`
	Message      ChatMessage   `json:"message"`
	Logprobs     *ChatLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
	StopReason   any           `json:"stop_reason,omitempty"`
	TokenIDs     *[]int32      `json:"token_ids,omitempty"`
}

// ChatMessage is the model's.
type ChatMessage struct {
	Role    string  `json:"role"`
	Content string  `json:"content"`
	Refusal *string `json:"refusal"`
}

// ChatChunk is an event of a streamed chat completion.
type ChatChunk struct {
	envelope
	Choices        []ChatChunkChoice `json:"choices"`
	Usage          Raw               `json:"usage,omitempty"`
	PromptTokenIDs []int32           `json:"prompt_token_ids,omitempty"`
}

// ChatChunkChoice is a piece of a choice.
type ChatChunkChoice struct {
	Index        int           `json:"index"`
	Delta        ChatDelta     `json:"delta"`
	Logprobs     *ChatLogprobs `json:"logprobs"`
	FinishReason *string       `json:"finish_reason"`
	StopReason   any           `json:"stop_reason,omitempty"`
	TokenIDs     *[]int32      `json:"token_ids,omitempty"`
}

// ChatDelta is a piece of a message.
type ChatDelta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

// finishReason is null until the end.
func finishReason(d *completion.Delta) *string { return orNull(string(d.Finish)) }

// stopReason is vLLM's: the stop string, or the id of stop_token_ids; nothing
// for the model's own end of sequence.
func stopReason(d *completion.Delta, asked []int32) any {
	if d.StopString != "" {
		return d.StopString
	}
	for _, id := range asked {
		if id == d.StopToken {
			return id
		}
	}
	return nil
}

// tokenIDsOf lists tokens, where they were asked for.
func tokenIDsOf(tokens []completion.Token, asked bool) *[]int32 {
	if !asked {
		return nil
	}
	ids := make([]int32, len(tokens))
	for i, t := range tokens {
		ids[i] = t.ID
	}
	return &ids
}

// writeJSON answers with a document.
func writeJSON(w http.ResponseWriter, status int, v any) {
	body := encode(v)
	body = append(body, '\n')
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone reads nothing
}
