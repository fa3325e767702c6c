package api

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/completion"
)

// least is what stands for −∞, which JSON has no word for, as OpenAI has it.
const least = -9999

// TextLogprobs are the log-probabilities of /v1/completions: four lists with an
// entry per token. The first of an echoed prompt is null.
type TextLogprobs struct {
	TextOffset    []int      `json:"text_offset"`
	TokenLogprobs []*float32 `json:"token_logprobs"`
	Tokens        []string   `json:"tokens"`
	TopLogprobs   []ranked   `json:"top_logprobs"`
}

// ranked is an object of tokens and log-probabilities, best first; null where
// nil.
type ranked []rankedToken

type rankedToken struct {
	token   string
	logprob float32
}

// MarshalJSON keeps the order.
func (r ranked) MarshalJSON() ([]byte, error) {
	if r == nil {
		return []byte("null"), nil
	}
	members := make([]member, len(r))
	for i, t := range r {
		members[i] = member{t.token, encode(t.logprob)}
	}
	return object(members), nil
}

// ChatLogprobs are the log-probabilities of chat.
type ChatLogprobs struct {
	Content []ChatTokenLogprob `json:"content"`
	Refusal []ChatTokenLogprob `json:"refusal"`
}

// ChatTokenLogprob is a token of an answer, and the candidates in its place.
type ChatTokenLogprob struct {
	ChatLogprob
	TopLogprobs []ChatLogprob `json:"top_logprobs"`
}

// ChatLogprob is a token and its log-probability. Bytes are the token's own,
// which need not be whole characters.
type ChatLogprob struct {
	Token   string  `json:"token"`
	Logprob float32 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

// naming turns ids into what stands for them in an answer.
type naming struct {
	tokenizer completion.Tokenizer
	// asIDs is vLLM's return_tokens_as_token_ids.
	asIDs bool
}

// chat is a token's text; what is no whole character becomes U+FFFD, and Bytes
// tells.
func (n naming) chat(id int32) string {
	if n.asIDs {
		return fmt.Sprintf("token_id:%d", id)
	}
	return strings.ToValidUTF8(string(n.tokenizer.TokenBytes(id)), "\ufffd")
}

// completion is a token's text or, where that is no whole characters,
// "bytes:\xe2\x80", as OpenAI has it: names must differ to be keys.
func (n naming) completion(id int32) string {
	text := n.tokenizer.TokenBytes(id)
	if n.asIDs || utf8.Valid(text) {
		return n.chat(id)
	}
	var b strings.Builder
	b.WriteString("bytes:")
	for _, c := range text {
		fmt.Fprintf(&b, `\x%02x`, c)
	}
	return b.String()
}

// textLogprobs lists tokens whose offsets count from start, with top candidates
// each.
func (n naming) textLogprobs(tokens []completion.Token, start, top int) *TextLogprobs {
	l := &TextLogprobs{
		TextOffset:    make([]int, len(tokens)),
		TokenLogprobs: make([]*float32, len(tokens)),
		Tokens:        make([]string, len(tokens)),
		TopLogprobs:   make([]ranked, len(tokens)),
	}
	for i, t := range tokens {
		l.TextOffset[i] = start + t.Offset
		l.Tokens[i] = n.completion(t.ID)
		if t.Logprob != nil {
			own := floor(t.Logprob.Logprob.Logprob)
			l.TokenLogprobs[i] = &own
			l.TopLogprobs[i] = n.ranked(t.Logprob, top)
		}
	}
	return l
}

func (l *TextLogprobs) append(more *TextLogprobs) *TextLogprobs {
	if l == nil {
		return more
	}
	l.TextOffset = append(l.TextOffset, more.TextOffset...)
	l.TokenLogprobs = append(l.TokenLogprobs, more.TokenLogprobs...)
	l.Tokens = append(l.Tokens, more.Tokens...)
	l.TopLogprobs = append(l.TopLogprobs, more.TopLogprobs...)
	return l
}

// ranked are the best candidates and the token itself, which comes last where it
// is none of them. A name stands once: the better of two tokens of one text has
// it.
func (n naming) ranked(l *serve.TokenLogprob, top int) ranked {
	out := make(ranked, 0, top+1)
	seen := make(map[string]bool, top+1)
	add := func(c serve.Logprob) {
		if name := n.completion(c.Token); !seen[name] {
			seen[name] = true
			out = append(out, rankedToken{name, floor(c.Logprob)})
		}
	}
	for _, c := range l.Top[:min(top, len(l.Top))] {
		add(c)
	}
	add(l.Logprob)
	return out
}

// chatLogprobs lists tokens with top candidates each.
func (n naming) chatLogprobs(tokens []completion.Token, top int) *ChatLogprobs {
	content := make([]ChatTokenLogprob, 0, len(tokens))
	for _, t := range tokens {
		if t.Logprob == nil {
			continue
		}
		entry := ChatTokenLogprob{ChatLogprob: n.chatLogprob(t.Logprob.Logprob), TopLogprobs: []ChatLogprob{}}
		for _, c := range t.Logprob.Top[:min(top, len(t.Logprob.Top))] {
			entry.TopLogprobs = append(entry.TopLogprobs, n.chatLogprob(c))
		}
		content = append(content, entry)
	}
	return &ChatLogprobs{Content: content}
}

func (n naming) chatLogprob(l serve.Logprob) ChatLogprob {
	text := n.tokenizer.TokenBytes(l.Token)
	bytes := make([]int, len(text))
	for i, b := range text {
		bytes[i] = int(b)
	}
	return ChatLogprob{Token: n.chat(l.Token), Logprob: floor(l.Logprob), Bytes: bytes}
}

// floor is what JSON can say of a log-probability.
func floor(logprob float32) float32 {
	if logprob >= least {
		return logprob
	}
	return least
}
