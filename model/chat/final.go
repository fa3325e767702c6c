package chat

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tandem-moe/tandem/model/chat/jinja"
)

// mark is put behind the last message and cut off again with all that the template
// writes after it. It is transformers' own; its space tells whether the template
// trims the message.
const mark = "CONTINUE_FINAL_MESSAGE_TAG "

// markFinal puts the mark behind the last message's text, which it returns: of
// several parts, the last that has a text.
func markFinal(messages *jinja.List) (final string, err error) {
	last := messages.Items[len(messages.Items)-1].(*jinja.Dict)
	content, ok := last.Get("content")
	switch c := content.(type) {
	case string:
		last.Set("content", c+mark)
		return c, nil
	case *jinja.List:
		for i := len(c.Items) - 1; i >= 0; i-- {
			if part, ok := c.Items[i].(*jinja.Dict); ok {
				if v, ok := part.Get("text"); ok {
					final, _ = v.(string)
					part.Set("text", final+mark)
					return final, nil
				}
			}
		}
	}
	if !ok {
		return "", errors.New("messages: the last message has no content that could be continued")
	}
	return "", fmt.Errorf("messages: the last message has no text that could be continued")
}

// cutAtMark cuts a rendered conversation behind its last message.
func cutAtMark(text, final string) (string, error) {
	trimmed := strings.TrimSpace(mark)
	at := strings.LastIndex(text, trimmed)
	if at < 0 || !strings.Contains(text, strings.TrimSpace(final)) {
		return "", ErrFinalMessage
	}
	if strings.HasPrefix(text[at:], mark) {
		return text[:at], nil
	}
	return strings.TrimRightFunc(text[:at], jinja.IsSpace), nil // the template trims
}
