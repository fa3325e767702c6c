package m2n

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// pairID names the two ends of a pair, from the side of the end that dials.
type pairID struct {
	From      string `json:"from"`
	FromEpoch uint64 `json:"from_epoch"`
	To        string `json:"to"`
	ToEpoch   uint64 `json:"to_epoch"`
}

// greeting is the header of hello, welcome and ready frames: which pair it is about, and
// what the sender has to say of itself.
type greeting struct {
	pairID
	Slots       int           `json:"slots"`
	SlotBytes   int           `json:"slot_bytes"`
	HeaderBytes int           `json:"header_bytes"`
	PeerTimeout time.Duration `json:"peer_timeout_ns"`
	// Lanes is, in a hello, how many connections the end that dials wants; in a welcome,
	// how many there will be. Token, from the welcome of the first connection, is in the
	// hello of each further one, with its place in Lane.
	Lanes int    `json:"lanes,omitempty"`
	Lane  int    `json:"lane,omitempty"`
	Token string `json:"token,omitempty"`
	// Doorbell is, where the ends share memory, the doorbell of the sender's page that
	// the receiver is to signal.
	Doorbell int `json:"ring,omitempty"`
	// Fabric is how the sender's fabric is reached, where messages are to go by one.
	Fabric *fabricGreeting `json:"fabric,omitempty"`
}

func (e *Endpoint) greeting(id pairID) greeting {
	c := e.cfg
	return greeting{pairID: id, Slots: c.Slots, SlotBytes: c.SlotBytes, HeaderBytes: c.HeaderBytes, PeerTimeout: c.PeerTimeout}
}

func (g greeting) limits() limits {
	return limits{slots: g.Slots, slotBytes: g.SlotBytes, headerBytes: g.HeaderBytes}
}

// parseGreeting reads a greeting and holds its numbers to what Config allows.
func parseGreeting(b []byte) (greeting, error) {
	var g greeting
	if err := json.Unmarshal(b, &g); err != nil {
		return g, fmt.Errorf("%w: greeting: %w", ErrBadFrame, err)
	}
	c := Config{ID: g.From, Slots: g.Slots, SlotBytes: g.SlotBytes, HeaderBytes: g.HeaderBytes, PeerTimeout: g.PeerTimeout,
		Queue: 1, DialTimeout: 1, ReadyTimeout: 1, Connections: 1}
	if err := errors.Join(c.check(), checkID(g.From), g.Fabric.check()); err != nil {
		return g, fmt.Errorf("%w: greeting: %w", ErrBadFrame, err)
	}
	return g, nil
}

// refusal is why an endpoint does not want a connection, and the header of a refuse
// frame. It is temporary where another attempt may succeed.
type refusal struct {
	Reason    string `json:"reason"`
	Temporary bool   `json:"temporary"`
}

func (r *refusal) Error() string { return fmt.Sprintf("%v: %s", ErrRefused, r.Reason) }
func (r *refusal) Unwrap() error { return ErrRefused }

// refusalOf is the refusal that tells the peer of err.
func refusalOf(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return &refusal{shorten(r.Reason), r.Temporary}
	}
	return &refusal{Reason: shorten(err.Error())}
}

// shorten cuts a text so that, escaped, it fits into a control frame.
func shorten(text string) string {
	const limit = wire.ControlBytes / 8
	if len(text) > limit {
		return strings.ToValidUTF8(text[:limit], "") + "…"
	}
	return text
}

// printable returns a peer's text in a form that may stand in this end's errors, which
// may go to a terminal: a mark is in the place of each character that cannot be
// printed, and the text is as short as shorten makes it.
func printable(text string) string {
	return shorten(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text))
}

// parseRefusal reads the header of a refuse frame.
func parseRefusal(b []byte) error {
	r := new(refusal)
	if err := json.Unmarshal(b, r); err != nil {
		return fmt.Errorf("%w: refusal: %w", ErrBadFrame, err)
	}
	r.Reason = printable(r.Reason)
	return r
}

// goodbye is the header of a goodbye frame: why the pair ends.
type goodbye struct {
	Cause  string `json:"cause"` // the text of one of knownCauses, where it is one
	Reason string `json:"reason"`
}

// knownCauses are the causes that errors.Is finds at the other end too.
var knownCauses = []error{ErrClosed, ErrReplaced, ErrRemoved, ErrSilent, ErrBadFrame, ErrTooLarge}

// goodbyeOf is the goodbye that tells the peer of the cause of a loss.
func goodbyeOf(cause error) goodbye {
	g := goodbye{Reason: shorten(cause.Error())}
	for _, s := range knownCauses {
		if errors.Is(cause, s) {
			g.Cause = s.Error()
			break
		}
	}
	return g
}

// asCause is the cause of the loss at the end that has received the goodbye.
func (g goodbye) asCause() error {
	reason := printable(g.Reason)
	for _, s := range knownCauses {
		if g.Cause == s.Error() {
			return &peerError{reason, s}
		}
	}
	return &peerError{reason, nil}
}

// parseGoodbye returns the cause that a goodbye names.
func parseGoodbye(b []byte) (cause, err error) {
	var g goodbye
	if err := json.Unmarshal(b, &g); err != nil {
		return nil, fmt.Errorf("%w: goodbye: %w", ErrBadFrame, err)
	}
	return g.asCause(), nil
}

// peerError is a cause of loss in the peer's words.
type peerError struct {
	reason string
	cause  error
}

func (e *peerError) Error() string { return "the peer says: " + e.reason }
func (e *peerError) Unwrap() error { return e.cause }

// checkAddressee checks that a hello is for this incarnation of this endpoint.
func (e *Endpoint) checkAddressee(id pairID) error {
	switch {
	case id.To != e.cfg.ID:
		return &refusal{Reason: fmt.Sprintf("the peer wanted is %q, this is %q", id.To, e.cfg.ID)}
	case id.ToEpoch != e.cfg.Epoch:
		return &refusal{
			Reason:    fmt.Sprintf("the epoch wanted of %q is %d, this is %d", id.To, id.ToEpoch, e.cfg.Epoch),
			Temporary: id.ToEpoch > e.cfg.Epoch, // this incarnation may give way to the next
		}
	}
	return nil
}

// pairFor returns the pair that a hello is about. Ends may start in any order: where
// SetPeer has not named the peer yet, or only with an older epoch, pairFor waits for
// that until ctx ends.
func (e *Endpoint) pairFor(ctx context.Context, id pairID) (*pair, error) {
	if err := e.checkAddressee(id); err != nil {
		return nil, err
	}
	for {
		p, changed, err := e.lookup(id)
		if p != nil {
			return p, nil
		}
		if changed == nil {
			return nil, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// lookup returns the pair, or an error. Where changed is not nil, another lookup may
// succeed once that channel is closed.
func (e *Endpoint) lookup(id pairID) (p *pair, changed <-chan struct{}, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p = e.pairs[id.From]
	switch {
	case e.closing:
		return nil, nil, &refusal{Reason: fmt.Sprintf("%q is closed", e.cfg.ID), Temporary: true}
	case p == nil:
		return nil, e.peersChanged.next(), &refusal{Reason: fmt.Sprintf("peer %q (epoch %d) is not known to %q", id.From, id.FromEpoch, e.cfg.ID)}
	case p.epoch < id.FromEpoch:
		return nil, e.peersChanged.next(), &refusal{Reason: fmt.Sprintf("peer %q has epoch %d, %q knows epoch %d", id.From, id.FromEpoch, e.cfg.ID, p.epoch)}
	case p.epoch > id.FromEpoch:
		p.counters.droppedOld.Add(1)
		return nil, nil, &refusal{Reason: fmt.Sprintf("peer %q has epoch %d, %q knows epoch %d", id.From, id.FromEpoch, e.cfg.ID, p.epoch)}
	}
	return p, nil, nil
}
