package chat

import (
	"strings"

	"github.com/tandem-moe/tandem/model/chat/jinja"
)

// variant is one of a checkpoint's templates, with the form of content that it
// takes. As vLLM, it is found by looking at the template: one that loops over a
// message's content takes parts.
type variant struct {
	*jinja.Template
	// parts says that a list of parts stays one; else its texts are joined.
	parts bool
	// strings says that a string stays one; else it becomes one part.
	strings bool
}

func newVariant(source string) (*variant, error) {
	t, err := jinja.Parse(source)
	if err != nil {
		return nil, err
	}
	v := &variant{Template: t, parts: t.LoopsOver("messages", "content")}
	// transformers gives a template the string that it is sent; vLLM makes a part of
	// it wherever parts are taken. They differ only for templates that know both, and
	// these tell them apart by a test.
	v.strings = !v.parts || t.HasTest("string")
	return v, nil
}

// shape gives the messages' content the form that the template takes.
func (v *variant) shape(messages *jinja.List) {
	for _, m := range messages.Items {
		message := m.(*jinja.Dict)
		content, _ := message.Get("content")
		switch c := content.(type) {
		case string:
			if !v.strings {
				message.Set("content", &jinja.List{Items: []jinja.Value{textPart(c)}})
			}
		case *jinja.List:
			if text, ok := joinedParts(c); ok && !v.parts {
				message.Set("content", text)
			}
		}
	}
}

func textPart(text string) *jinja.Dict {
	part := jinja.NewDict()
	part.Set("type", "text")
	part.Set("text", text)
	return part
}

// joinedParts are the texts of parts with line breaks between, as vLLM joins them.
// ok is false where there are parts without a text.
func joinedParts(parts *jinja.List) (text string, ok bool) {
	texts := make([]string, len(parts.Items))
	for i, p := range parts.Items {
		d, _ := p.(*jinja.Dict)
		if d == nil {
			return "", false
		}
		v, _ := d.Get("text")
		if texts[i], ok = v.(string); !ok {
			return "", false
		}
	}
	return strings.Join(texts, "\n"), true
}
