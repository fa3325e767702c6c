package remote

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/tandem-moe/tandem/internal/clip"
	"github.com/tandem-moe/tandem/internal/tandemv1"
	"github.com/tandem-moe/tandem/serve"
)

// pieceTokens is how many tokens of a request one message has at most: a token takes
// at most 5 bytes.
const pieceTokens = tandemv1.Piece / 8

// requestPieces cuts a request into messages of bounded size, in the order of their
// tokens.
func requestPieces(p *tandemv1.Request) (pieces []*tandemv1.Request) {
	prompt, output := p.Prompt, p.Output
	for {
		room := pieceTokens
		p.Prompt, prompt = cut(prompt, room)
		p.Output, output = cut(output, room-len(p.Prompt))
		p.More = len(prompt)+len(output) > 0
		pieces = append(pieces, p)
		if !p.More {
			return pieces
		}
		p = &tandemv1.Request{Id: p.Id}
	}
}

// cut takes up to n entries off a list.
func cut(list []int32, n int) (head, tail []int32) {
	n = min(n, len(list))
	return list[:n:n], list[n:]
}

// joiner joins the messages of a request to one request.
type joiner struct {
	pending *tandemv1.Request // the messages so far of an incomplete request, or nil
	limit   int               // how many tokens a request may have
}

// add takes a message, and returns the request that it completes, or nil.
func (j *joiner) add(p *tandemv1.Request) (*tandemv1.Request, error) {
	if j.pending != nil {
		if p.GetId() != j.pending.GetId() {
			return nil, fmt.Errorf("request %d begins before the end of request %d", p.GetId(), j.pending.GetId())
		}
		if len(j.pending.Output) > 0 && len(p.Prompt) > 0 {
			return nil, fmt.Errorf("request %d has more of its prompt after its output", p.GetId())
		}
		j.pending.Prompt = append(j.pending.Prompt, p.Prompt...)
		j.pending.Output = append(j.pending.Output, p.Output...)
		j.pending.More = p.More
		p = j.pending
	}
	j.pending = nil
	if n := len(p.Prompt) + len(p.Output); n > j.limit {
		return nil, fmt.Errorf("request %d has %d tokens, the most is %d", p.GetId(), n, j.limit)
	}
	if p.GetMore() {
		j.pending = p
		return nil, nil
	}
	return p, nil
}

// errTooLarge ends a request that asks for more candidates per token than a message
// can hold.
func errTooLarge(bytes int) error {
	return &serve.InvalidError{Field: "Logprobs", Reason: fmt.Sprintf(
		"one token with all that is asked for with it takes %d bytes, a message between nodes holds %d", bytes, tandemv1.MaxMessage/2)}
}

// eventPieces cuts reports into messages of bounded size, keeping their order. A
// report that is too large and cannot be cut ends its request with an error; cancel
// is called for that request only.
func eventPieces(reports []serve.Report, cancel func(id uint64)) (messages []*tandemv1.ServeRequest) {
	events, size := &tandemv1.Events{}, 0
	flush := func() {
		if len(events.Events) > 0 {
			messages = append(messages, &tandemv1.ServeRequest{Message: &tandemv1.ServeRequest_Events{Events: events}})
		}
		events, size = &tandemv1.Events{}, 0
	}
	for _, r := range reports {
		pieces, err := cutReport(r)
		if err != nil {
			cancel(r.ID)
			pieces = []*tandemv1.Event{reportToProto(serve.Report{ID: r.ID, Err: err})}
		}
		for _, e := range pieces {
			bytes := proto.Size(e) + perEvent
			if size+bytes > tandemv1.Piece {
				flush()
			}
			events.Events, size = append(events.Events, e), size+bytes
		}
	}
	flush()
	return messages
}

// perEvent is how many bytes an event or log-probability in a list takes at most
// beside its own: its field's tag and its length.
const perEvent = 8

// cutReport turns a report into events of bounded size: pieces with the prompt's
// log-probabilities, then an event with all else.
func cutReport(r serve.Report) (pieces []*tandemv1.Event, err error) {
	whole := reportToProto(r)
	prompt := whole.Prompt
	for i, size := 0, 0; i < len(prompt); i++ {
		bytes := proto.Size(prompt[i]) + perEvent
		if bytes > tandemv1.MaxMessage/2 {
			return nil, errTooLarge(bytes)
		}
		if size += bytes; size > tandemv1.Piece && i > 0 {
			pieces = append(pieces, &tandemv1.Event{Id: r.ID, Prompt: prompt[:i:i], More: true})
			prompt, i, size = prompt[i:], 0, bytes
		}
	}
	if len(pieces) > 0 && len(prompt) > 0 {
		pieces = append(pieces, &tandemv1.Event{Id: r.ID, Prompt: prompt, More: true})
		prompt = nil
	}
	whole.Prompt = prompt
	if bytes := proto.Size(whole); bytes > tandemv1.MaxMessage/2 {
		return nil, errTooLarge(bytes)
	}
	return append(pieces, whole), nil
}

// clipped makes a reason valid UTF-8 and no longer than a message allows.
func clipped(s string) string {
	return clip.Text(strings.ToValidUTF8(s, string(utf8.RuneError)), tandemv1.MaxReason)
}

// reportsOf returns the reports of a node's message, in their order.
func reportsOf(m *tandemv1.ServeRequest) ([]serve.Report, error) {
	if err := tandemv1.Check(m); err != nil {
		return nil, err
	}
	events := m.GetEvents()
	if events == nil {
		return nil, errors.New("a message that is neither the first one nor events")
	}
	reports := make([]serve.Report, 0, len(events.GetEvents()))
	for _, e := range events.GetEvents() {
		reports = append(reports, reportFromProto(e))
	}
	return slices.Clip(reports), nil
}
