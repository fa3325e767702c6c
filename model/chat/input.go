package chat

import (
	"encoding/json"
	"fmt"

	"github.com/tandem-moe/tandem/model/chat/jinja"
)

// reasoningFields are the names under which a message's reasoning is known, as
// transformers has them: the first that is given is the one that counts.
var reasoningFields = []string{"reasoning_content", "thinking", "reasoning"}

// readMessages reads a conversation, and does to it what transformers does:
// fields that are None go, and reasoning is put under the names that templates
// read.
func readMessages(raw json.RawMessage) (*jinja.List, error) {
	list, err := readList("messages", raw)
	if err != nil {
		return nil, err
	}
	messages, ok := list.(*jinja.List)
	if !ok || len(messages.Items) == 0 {
		return nil, fmt.Errorf("messages: want at least one")
	}
	for i, m := range messages.Items {
		messages.Items[i] = aliased(withoutNone(m.(*jinja.Dict)))
	}
	return messages, nil
}

func withoutNone(m *jinja.Dict) *jinja.Dict {
	out := jinja.NewDict()
	for k, v := range m.All() {
		if v != nil {
			out.Set(k, v)
		}
	}
	return out
}

// aliased adds thinking and reasoning_content to a message that has reasoning.
func aliased(m *jinja.Dict) *jinja.Dict {
	for _, field := range reasoningFields {
		reasoning, ok := m.Get(field)
		if !ok {
			continue
		}
		out := jinja.NewDict()
		out.Set("thinking", reasoning)
		copyInto(out, m)
		out.Set("reasoning_content", reasoning)
		return out
	}
	return m
}

// readList reads a list of objects; nil where there is none.
func readList(name string, raw json.RawMessage) (jinja.Value, error) {
	v, err := readJSON(name, raw)
	if v == nil || err != nil {
		return nil, err
	}
	list, ok := v.(*jinja.List)
	if !ok {
		return nil, fmt.Errorf("%s: want a list", name)
	}
	for i, item := range list.Items {
		if _, ok := item.(*jinja.Dict); !ok {
			return nil, fmt.Errorf("%s[%d]: want an object", name, i)
		}
	}
	return list, nil
}

// readExtra reads an object of variables.
func readExtra(raw json.RawMessage) (*jinja.Dict, error) {
	v, err := readJSON("further variables", raw)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return jinja.NewDict(), nil
	}
	d, ok := v.(*jinja.Dict)
	if !ok {
		return nil, fmt.Errorf("further variables: want an object")
	}
	if has(d, "messages") {
		return nil, fmt.Errorf("further variables: messages are given already")
	}
	return d, nil
}

func readJSON(name string, raw json.RawMessage) (jinja.Value, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	v, err := jinja.FromJSON(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}
