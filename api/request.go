package api

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tandem-moe/tandem/internal/strictjson"
)

// Bounds of a request.
const (
	maxChoices   = 128
	maxPrompts   = 2048
	maxSequences = 4096
	maxStops     = 64 // by default
	maxStopBytes = 4096
	maxStopIDs   = 256
	// maxLogprobs is vLLM's default and OpenAI's bound for chat.
	maxLogprobs = 20
	maxMessages = 16384
	maxTools    = 1024
	// defaultMaxTokens is OpenAI's for completions; chat has none.
	defaultMaxTokens = 16
)

// Sampling are the fields that completions and chat completions share. A nil
// pointer is a field that was not given.
type Sampling struct {
	Model         string         `json:"model,omitempty"`
	N             *int           `json:"n,omitempty"`
	MaxTokens     *int           `json:"max_tokens,omitempty"`
	Stream        bool           `json:"stream,omitempty"`
	StreamOptions *StreamOptions `json:"stream_options,omitempty"`
	Stop          []string       `json:"stop,omitempty"`
	Seed          *int64         `json:"seed,omitempty"`

	Temperature      *float64        `json:"temperature,omitempty"`
	TopP             *float64        `json:"top_p,omitempty"`
	PresencePenalty  *float64        `json:"presence_penalty,omitempty"`
	FrequencyPenalty *float64        `json:"frequency_penalty,omitempty"`
	LogitBias        map[int]float64 `json:"logit_bias,omitempty"`

	// vLLM's.
	TopK                   *int     `json:"top_k,omitempty"`
	MinP                   *float64 `json:"min_p,omitempty"`
	RepetitionPenalty      *float64 `json:"repetition_penalty,omitempty"`
	MinTokens              int      `json:"min_tokens,omitempty"`
	StopTokenIDs           []int32  `json:"stop_token_ids,omitempty"`
	IgnoreEOS              bool     `json:"ignore_eos,omitempty"`
	IncludeStopStr         bool     `json:"include_stop_str_in_output,omitempty"`
	SkipSpecialTokens      *bool    `json:"skip_special_tokens,omitempty"`
	AddSpecialTokens       *bool    `json:"add_special_tokens,omitempty"`
	ReturnTokenIDs         bool     `json:"return_token_ids,omitempty"`
	ReturnTokensAsTokenIDs bool     `json:"return_tokens_as_token_ids,omitempty"`
	RequestID              string   `json:"request_id,omitempty"`
	// Truncate cuts a prompt to so many tokens, −1 to as many as fit, where
	// TruncationSide is "right" at its end, else at its beginning.
	Truncate       *int   `json:"truncate_prompt_tokens,omitempty"`
	TruncationSide string `json:"truncation_side,omitempty"`
}

// StreamOptions are OpenAI's, and vLLM's continuous_usage_stats.
type StreamOptions struct {
	IncludeUsage         bool `json:"include_usage,omitempty"`
	ContinuousUsageStats bool `json:"continuous_usage_stats,omitempty"`
}

// CompletionRequest is the body of /v1/completions.
type CompletionRequest struct {
	Sampling
	Prompt   Prompt `json:"prompt"`
	Echo     bool   `json:"echo,omitempty"`
	Logprobs *int   `json:"logprobs,omitempty"`
	BestOf   *int   `json:"best_of,omitempty"`
}

// Prompt is one prompt or several, as text or as token ids. One of the two lists
// is set.
type Prompt struct {
	Texts []string
	IDs   [][]int32
}

// MarshalJSON writes a list of strings or of lists of ids.
func (p Prompt) MarshalJSON() ([]byte, error) {
	if p.IDs != nil {
		return json.Marshal(p.IDs)
	}
	return json.Marshal(p.Texts)
}

// common are the fields that both requests know.
func (s *Sampling) common(p *Parser) fields {
	const (
		constrained = "constrained output is not implemented"
		beam        = "beam search is not implemented"
		transfer    = "transfers of the cache are not part of this interface"
	)
	return fields{
		"model":             text(&s.Model),
		"n":                 optional(whole(1, maxChoices), &s.N),
		"stream":            boolean(&s.Stream),
		"stream_options":    s.streamOptions(p),
		"stop":              stopStrings(&s.Stop, p.maxStops()),
		"seed":              optional(whole[int64](math.MinInt64, math.MaxInt64), &s.Seed),
		"temperature":       optional(decimal(0, 2), &s.Temperature),
		"top_p":             optional(decimal(0, 1), &s.TopP),
		"presence_penalty":  optional(decimal(-2, 2), &s.PresencePenalty),
		"frequency_penalty": optional(decimal(-2, 2), &s.FrequencyPenalty),
		"logit_bias":        s.logitBias,

		"top_k": optional(whole(-1, math.MaxInt32), &s.TopK),
		"min_p": optional(decimal(0, 1), &s.MinP),
		"repetition_penalty": optional(decimal(math.SmallestNonzeroFloat64, math.MaxFloat32),
			&s.RepetitionPenalty),
		"min_tokens":                 whole(0, math.MaxInt32)(&s.MinTokens),
		"stop_token_ids":             s.stopIDs,
		"ignore_eos":                 boolean(&s.IgnoreEOS),
		"include_stop_str_in_output": boolean(&s.IncludeStopStr),
		"skip_special_tokens":        optional(boolean, &s.SkipSpecialTokens),
		"add_special_tokens":         optional(boolean, &s.AddSpecialTokens),
		"return_token_ids":           boolean(&s.ReturnTokenIDs),
		"return_tokens_as_token_ids": boolean(&s.ReturnTokensAsTokenIDs),
		"request_id":                 requestID(&s.RequestID),

		"user": harmless, "metadata": harmless, "store": harmless, "service_tier": harmless,
		"safety_identifier": harmless, "prompt_cache_key": harmless, "prompt_cache_retention": harmless,
		"prompt_cache_options": harmless,
		"session_id":           harmless, "cache_control": harmless,

		"response_format":               textFormat,
		"priority":                      only("requests have no priority", "0"),
		"spaces_between_special_tokens": only("text is decoded with them", "true"),
		"use_beam_search":               only(beam, "false"),
		"length_penalty":                only(beam, "1"),
		"early_stopping":                only(beam, "false"),
		"bad_words":                     only(constrained, "[]"),
		"allowed_token_ids":             refused(constrained),
		"structured_outputs":            only(constrained, "{}"),
		"guided_json":                   refused(constrained),
		"guided_regex":                  only(constrained, `""`),
		"guided_choice":                 only(constrained, "[]"),
		"guided_grammar":                only(constrained, `""`),
		"guided_decoding_backend":       refused(constrained),
		"guided_whitespace_pattern":     refused(constrained),
		"structural_tag":                refused(constrained),
		"logits_processors":             only("processors of the client's are not implemented", "[]"),
		"truncate_prompt_tokens":        optional(whole(-1, math.MaxInt32), &s.Truncate),
		"truncation_side":               oneOf(&s.TruncationSide, "left", "right"),
		"prompt_logprobs":               refused("use echo with logprobs of /v1/completions"),
		"logprob_token_ids":             refused("log-probabilities of chosen tokens are not implemented"),
		"repetition_detection":          refused("detection of repetitions is not implemented"),
		"thinking_token_budget":         refused("reasoning has no budget of its own"),
		"cache_salt":                    only("the prefix cache is shared by all clients", `""`),
		"watermarking":                  only("there is no watermark", "false"),
		"kv_transfer_params":            only(transfer, "{}"),
		"ec_transfer_params":            only(transfer, "{}"),
		"vllm_xargs":                    only("there are no extensions", "{}"),
		"moderation":                    refused("there is no moderation"),
	}
}

// with adds fields to a copy.
func (f fields) with(more fields) fields {
	for name, rule := range more {
		f[name] = rule
	}
	return f
}

// Completion reads the body of /v1/completions. Errors are *Error.
func (p *Parser) Completion(body []byte) (*CompletionRequest, error) {
	var r CompletionRequest
	err := p.parse(body, r.common(p).with(fields{
		"prompt":        promptRule(&r.Prompt),
		"max_tokens":    optional(whole(0, math.MaxInt32), &r.MaxTokens),
		"echo":          boolean(&r.Echo),
		"logprobs":      optional(whole(0, maxLogprobs), &r.Logprobs),
		"best_of":       optional(whole(1, maxChoices), &r.BestOf),
		"suffix":        only("infilling is not implemented", `""`),
		"prompt_embeds": refused("prompts are text or token ids"),
	}))
	if err != nil {
		return nil, err
	}
	return &r, r.check()
}

// parse checks a body and takes it apart.
func (p *Parser) parse(body []byte, known fields) error {
	if err := checkJSON(body); err != nil {
		return err
	}
	return known.decode(p, "", strictjson.Trim(body))
}

// check looks at fields together.
func (s *Sampling) check(maxTokens int) error {
	if s.StreamOptions != nil && !s.Stream {
		return invalid("stream_options", "stream_options needs stream: true")
	}
	if s.MinTokens > maxTokens {
		return invalid("min_tokens", "min_tokens is %d, more than max_tokens, which is %d", s.MinTokens, maxTokens)
	}
	return nil
}

func (r *CompletionRequest) check() error {
	if r.Prompt.Texts == nil && r.Prompt.IDs == nil {
		return invalid("prompt", "prompt is missing")
	}
	n := r.choices()
	if r.BestOf != nil && *r.BestOf != n {
		return unsupported("best_of", "choosing the best of several outputs is not implemented; best_of must equal n, "+strconv.Itoa(n))
	}
	if r.MaxTokens != nil && *r.MaxTokens == 0 && !r.Echo {
		return invalid("max_tokens", "max_tokens is 0, which needs echo: true")
	}
	if total := n * max(len(r.Prompt.Texts), len(r.Prompt.IDs)); total > maxSequences {
		return invalid("n", "prompts times n is %d, more than %d", total, maxSequences)
	}
	return r.Sampling.check(r.maxTokens())
}

func (r *CompletionRequest) maxTokens() int { return first(defaultMaxTokens, r.MaxTokens) }

func (s *Sampling) choices() int {
	if s.N == nil {
		return 1
	}
	return *s.N
}

func (s *Sampling) streamOptions(p *Parser) rule {
	return func(name string, raw []byte) error {
		s.StreamOptions = &StreamOptions{}
		return fields{
			"include_usage":          boolean(&s.StreamOptions.IncludeUsage),
			"continuous_usage_stats": boolean(&s.StreamOptions.ContinuousUsageStats),
			"include_obfuscation":    only("chunks are not padded", "false"),
		}.decode(p, name, raw)
	}
}

// stopStrings takes a string or a list of them. An empty one, which clients send
// for none, is left out.
func stopStrings(into *[]string, most int) rule {
	return func(name string, raw []byte) error {
		if raw[0] == '"' {
			*into = []string{strictjson.Text(raw)}
		} else if err := list(text, most)(into)(name, raw); err != nil {
			return err
		}
		for _, s := range *into {
			if len(s) > maxStopBytes {
				return invalid(name, "%s: a stop string has at most %d bytes, this one has %d", name, maxStopBytes,
					len(s))
			}
		}
		*into = slices.DeleteFunc(*into, func(s string) bool { return s == "" })
		return nil
	}
}

func (s *Sampling) stopIDs(name string, raw []byte) error {
	if err := tokenIDs(&s.StopTokenIDs)(name, raw); err != nil {
		return err
	}
	if len(s.StopTokenIDs) > maxStopIDs {
		return invalid(name, "%s has more than %d entries", name, maxStopIDs)
	}
	return nil
}

func (s *Sampling) logitBias(name string, raw []byte) error {
	if raw[0] != '{' {
		return wrongType(name, "an object", raw)
	}
	s.LogitBias = map[int]float64{}
	for m := range strictjson.Members(raw) {
		id, err := strconv.ParseInt(m.Name, 10, 32)
		if err != nil || id < 0 {
			return invalid(name, "%s: %q is not a token id", name, clipped(m.Name))
		}
		bias := new(float64)
		if err := decimal(-100, 100)(bias)(join(name, m.Name), m.Value); err != nil {
			return err
		}
		s.LogitBias[int(id)] = *bias
	}
	return nil
}

// requestID takes an id that can stand in a header.
func requestID(into *string) rule {
	return func(name string, raw []byte) error {
		if err := text(into)(name, raw); err != nil {
			return err
		}
		if !validID(*into) {
			return invalid(name, "%s must be 1 to 128 letters, digits, or any of -_.:", name)
		}
		return nil
	}
}

func validID(id string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:"
	return id != "" && len(id) <= 128 && strings.Trim(id, letters) == ""
}

// textFormat accepts {"type": "text"} alone.
func textFormat(name string, raw []byte) error {
	if raw[0] != '{' || typeOf(raw) != "text" {
		return unsupported(name, "constrained output is not implemented; only the type \"text\" is")
	}
	return nil
}

// promptRule takes a text, a list of texts, a list of ids, or a list of lists of
// ids.
func promptRule(into *Prompt) rule {
	return func(name string, raw []byte) error {
		if raw[0] == '"' {
			into.Texts = []string{strictjson.Text(raw)}
			return nil
		}
		if raw[0] != '[' {
			return wrongType(name, "a string, a list of strings, a list of token ids or a list of such lists", raw)
		}
		switch strictjson.Trim(raw[1:])[0] {
		case ']':
			return invalid(name, "%s is an empty list", name)
		case '"':
			return list(text, maxPrompts)(&into.Texts)(name, raw)
		case '[':
			return list(tokenIDs, maxPrompts)(&into.IDs)(name, raw)
		default:
			into.IDs = make([][]int32, 1)
			return tokenIDs(&into.IDs[0])(name, raw)
		}
	}
}
