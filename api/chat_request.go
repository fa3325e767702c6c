package api

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tandem-moe/tandem/internal/strictjson"
)

// ChatRequest is the body of /v1/chat/completions.
type ChatRequest struct {
	Sampling
	Conversation
	Logprobs    bool   `json:"logprobs,omitempty"`
	TopLogprobs int    `json:"top_logprobs,omitempty"`
	ToolChoice  string `json:"tool_choice,omitempty"`
}

// Conversation is what a chat template renders.
type Conversation struct {
	Messages             []Message `json:"messages"`
	Tools                []Raw     `json:"tools,omitempty"`
	TemplateKwargs       Raw       `json:"chat_template_kwargs,omitempty"`
	AddGenerationPrompt  *bool     `json:"add_generation_prompt,omitempty"`
	ContinueFinalMessage bool      `json:"continue_final_message,omitempty"`
}

// Raw is JSON as it stood in the request, its fields in the client's order.
type Raw = json.RawMessage

// Message is one message, for a template: an object with its fields in the
// client's order, whose content is a string or a list of parts of text.
type Message struct {
	Role string
	raw  []byte
}

// MarshalJSON writes the message as a template sees it.
func (m Message) MarshalJSON() ([]byte, error) { return m.raw, nil }

// Chat reads the body of /v1/chat/completions. Errors are *Error.
func (p *Parser) Chat(body []byte) (*ChatRequest, error) {
	const parsing = "tool calls are not parsed; leave tool_choice out or send \"none\": tools are then rendered into the prompt, and the text that the model writes is returned as it stands"
	var r ChatRequest
	var maxTokens, maxCompletion *int
	err := p.parse(body, r.common(p).with(r.Conversation.fields(p)).with(fields{
		"max_tokens":            optional(whole(1, math.MaxInt32), &maxTokens),
		"max_completion_tokens": optional(whole(1, math.MaxInt32), &maxCompletion),
		"logprobs":              boolean(&r.Logprobs),
		"top_logprobs":          whole(0, maxLogprobs)(&r.TopLogprobs),
		"tool_choice":           toolChoice(parsing, &r.ToolChoice),
		"parallel_tool_calls":   boolean(new(bool)), // no call is parsed, so that there are never two
		"functions":             only("use tools", "[]"),
		"function_call":         only("use tools", `"none"`),
		"modalities":            only("only text is generated", `["text"]`),
		"audio":                 refused("only text is generated"),
		"prediction":            refused("predicted outputs are not implemented"),
		"reasoning_effort":      p.effort,
		"include_reasoning":     only("reasoning is not parsed: it is part of the content", "true"),
		"verbosity":             only("not implemented", `"medium"`),
		"web_search_options":    refused("there is no web search"),
		"echo":                  only("not implemented for chat", "false"),
		"return_prompt_text":    only("not implemented", "false"),
	}))
	if err != nil {
		return nil, err
	}
	if maxTokens != nil && maxCompletion != nil && *maxTokens != *maxCompletion {
		return nil, invalid("max_tokens", "max_tokens is %d and max_completion_tokens is %d: give one", *maxTokens,
			*maxCompletion)
	}
	if r.MaxTokens = maxCompletion; maxCompletion == nil {
		r.MaxTokens = maxTokens
	}
	return &r, r.check()
}

func (r *ChatRequest) check() error {
	if r.TopLogprobs > 0 && !r.Logprobs {
		return invalid("top_logprobs", "top_logprobs needs logprobs: true")
	}
	if err := r.Conversation.check(); err != nil {
		return err
	}
	return r.Sampling.check(first(math.MaxInt32, r.MaxTokens))
}

func (c *Conversation) fields(p *Parser) fields {
	return fields{
		"messages":               list(messageRule(p), maxMessages)(&c.Messages),
		"tools":                  list(toolRule, maxTools)(&c.Tools),
		"chat_template_kwargs":   objectRule(&c.TemplateKwargs),
		"add_generation_prompt":  optional(boolean, &c.AddGenerationPrompt),
		"continue_final_message": boolean(&c.ContinueFinalMessage),
		"chat_template":          only("the model's own template is used", `""`),
		"documents":              only("put documents into the messages, or into chat_template_kwargs where the template knows them", "[]"),
		"mm_processor_kwargs":    only("only text is understood", "{}"),
		"media_io_kwargs":        only("only text is understood", "{}"),
	}
}

func (c *Conversation) check() error {
	if len(c.Messages) == 0 {
		return invalid("messages", "messages is missing or empty")
	}
	if c.ContinueFinalMessage && c.AddGenerationPrompt != nil && *c.AddGenerationPrompt {
		return invalid("continue_final_message", "continue_final_message and add_generation_prompt exclude each other")
	}
	return nil
}

// generationPrompt says whether the template is to open the model's turn.
func (c *Conversation) generationPrompt() bool {
	if c.AddGenerationPrompt != nil {
		return *c.AddGenerationPrompt
	}
	return !c.ContinueFinalMessage
}

// toolChoice accepts what needs no parsing of the model's output.
func toolChoice(reason string, into *string) rule {
	return func(name string, raw []byte) error {
		if err := only(reason, `"none"`)(name, raw); err != nil {
			return err
		}
		return text(into)(name, raw)
	}
}

var roles = []string{"system", "developer", "user", "assistant", "tool"}

// messageRule takes a message, and keeps it as a template sees it.
func messageRule(p *Parser) func(into *Message) rule {
	return func(into *Message) rule {
		return func(name string, raw []byte) error {
			m := message{parser: p}
			kept, err := m.read(name, raw)
			if err != nil {
				return err
			}
			*into = Message{Role: m.role, raw: object(kept)}
			return m.check(name)
		}
	}
}

// message is a message being read.
type message struct {
	parser     *Parser
	role       string
	content    []byte // JSON: a string, or a list of parts
	hasContent bool
	toolCalls  []byte
	other      string
}

// read takes a message apart. It returns what a template sees; a message without
// content has an empty one.
func (m *message) read(name string, raw []byte) (kept []member, err error) {
	if raw[0] != '{' {
		return nil, wrongType(name, "an object", raw)
	}
	known := m.fields()
	seen := false
	for f := range strictjson.Members(raw) {
		if err := known.take(m.parser, name, f); err != nil {
			return nil, err
		}
		if value := m.rendered(f); value != nil && known[f.Name] != nil {
			kept = append(kept, member{f.Name, value})
		}
		seen = seen || f.Name == "content"
	}
	if !seen {
		kept = append(kept, member{"content", quote("")})
	}
	return kept, nil
}

func (m *message) fields() fields {
	return fields{
		"role":              oneOf(&m.role, roles...),
		"content":           m.contentRule,
		"tool_calls":        m.toolCallsRule,
		"name":              text(&m.other),
		"tool_call_id":      text(&m.other),
		"reasoning_content": text(&m.other),
		"reasoning":         text(&m.other),
		"thinking":          text(&m.other),
		"refusal":           only("messages with a refusal are not implemented", `""`),
		"annotations":       harmless,
		"cache_control":     harmless,
		"audio":             refused("only text is understood"),
		"function_call":     refused("use tool_calls"),
	}
}

// unseen are the known fields of a message that say nothing to a model.
var unseen = []string{"annotations", "cache_control", "refusal"}

// rendered is what a template sees of a field; nil: nothing.
func (m *message) rendered(f strictjson.Member) []byte {
	switch {
	case f.Name == "content":
		if m.content == nil {
			return quote("")
		}
		return m.content
	case strictjson.IsNull(f.Value) || slices.Contains(unseen, f.Name):
		return nil
	case f.Name == "tool_calls":
		return m.toolCalls
	default:
		return f.Value
	}
}

func (m *message) check(name string) error {
	if m.role == "" {
		return invalid(join(name, "role"), "%s.role is missing", name)
	}
	if !m.hasContent && m.role != "assistant" {
		return invalid(join(name, "content"), "%s.content is missing", name)
	}
	if m.toolCalls != nil && m.role != "assistant" {
		return invalid(join(name, "tool_calls"), "%s.tool_calls belongs to role assistant, not %s", name, m.role)
	}
	return nil
}

// contentRule takes a string or a list of parts of text. What becomes of parts is
// for the template to say.
func (m *message) contentRule(name string, raw []byte) error {
	m.hasContent = true
	if raw[0] == '"' {
		m.content = quote(strictjson.Text(raw))
		return nil
	}
	if raw[0] != '[' {
		return wrongType(name, "a string or a list of parts", raw)
	}
	var parts []string
	if err := list(partRule(m.parser), maxMessages)(&parts)(name, raw); err != nil {
		return err
	}
	list := make([]Raw, len(parts))
	for i, text := range parts {
		list[i] = object([]member{{"type", quote("text")}, {"text", quote(text)}})
	}
	m.content = array(list)
	return nil
}

// partRule takes {"type": "text", "text": …}.
func partRule(p *Parser) func(into *string) rule {
	return func(into *string) rule {
		return func(name string, raw []byte) error {
			if raw[0] != '{' {
				return wrongType(name, "an object", raw)
			}
			if part := typeOf(raw); part != "text" {
				return unsupported(name, fmt.Sprintf("parts of type %q are not understood; only text is",
					clipped(part)))
			}
			return fields{
				"type": harmless, "text": text(into),
				"prompt_cache_breakpoint": harmless, "cache_control": harmless, "annotations": harmless,
			}.decode(p, name, raw)
		}
	}
}

// typeOf is an object's field "type", where that is a string.
func typeOf(raw []byte) string {
	for m := range strictjson.Members(raw) {
		if m.Name == "type" && m.Value[0] == '"' {
			return strictjson.Text(m.Value)
		}
	}
	return ""
}

// toolCallsRule takes the calls of an earlier answer. Arguments, which OpenAI
// has as a string of JSON, become an object, which templates expect.
func (m *message) toolCallsRule(name string, raw []byte) error {
	var calls []Raw
	if err := list(toolCallRule, maxTools)(&calls)(name, raw); err != nil {
		return err
	}
	if len(calls) > 0 {
		m.toolCalls = array(calls)
	}
	return nil
}

func toolCallRule(into *Raw) rule {
	return func(name string, raw []byte) error {
		if raw[0] != '{' {
			return wrongType(name, "an object", raw)
		}
		return rewrite(into, raw, "function", func(function []byte) ([]byte, error) {
			if function[0] != '{' {
				return nil, wrongType(join(name, "function"), "an object", function)
			}
			var out Raw
			err := rewrite(&out, function, "arguments", func(arguments []byte) ([]byte, error) {
				return argumentsOf(name+".function.arguments", arguments)
			})
			return out, err
		})
	}
}

// rewrite copies an object with one field's value changed.
func rewrite(into *Raw, raw []byte, key string, change func([]byte) ([]byte, error)) error {
	var kept []member
	for m := range strictjson.Members(raw) {
		value := m.Value
		if m.Name == key {
			var err error
			if value, err = change(value); err != nil {
				return err
			}
		}
		kept = append(kept, member{m.Name, value})
	}
	*into = object(kept)
	return nil
}

func argumentsOf(name string, raw []byte) ([]byte, error) {
	if raw[0] == '{' {
		return raw, nil
	}
	if raw[0] != '"' {
		return nil, wrongType(name, "a string of JSON", raw)
	}
	document := []byte(strings.TrimSpace(strictjson.Text(raw)))
	if len(document) == 0 {
		return []byte("{}"), nil
	}
	if err := checkJSON(document); err != nil || document[0] != '{' {
		return nil, invalid(name, "%s must be a JSON object in a string, and is %s", name, short(raw))
	}
	return document, nil
}

// toolRule takes a tool, as it stands, without what is for a cache.
func toolRule(into *Raw) rule {
	return func(name string, raw []byte) error {
		if raw[0] != '{' {
			return wrongType(name, "an object", raw)
		}
		if tool := typeOf(raw); tool != "function" {
			return unsupported(join(name, "type"),
				fmt.Sprintf("tools of type %q are not understood; only \"function\" is", clipped(tool)))
		}
		*into = without(raw, "cache_control")
		return nil
	}
}

// without is an object without a field.
func without(raw []byte, key string) Raw {
	var kept []member
	found := false
	for m := range strictjson.Members(raw) {
		if m.Name == key {
			found = true
		} else {
			kept = append(kept, member{m.Name, m.Value})
		}
	}
	if !found {
		return raw
	}
	return object(kept)
}

func objectRule(into *Raw) rule {
	return func(name string, raw []byte) error {
		if raw[0] != '{' {
			return wrongType(name, "an object", raw)
		}
		*into = raw
		return nil
	}
}

// object writes fields as JSON.
func object(fields []member) []byte {
	out := []byte{'{'}
	for i, f := range fields {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, quote(f.key)...), ':'), f.raw...)
	}
	return append(out, '}')
}

// array writes a list.
func array(values []Raw) []byte {
	out := []byte{'['}
	for i, v := range values {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, v...)
	}
	return append(out, ']')
}
