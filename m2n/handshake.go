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

// hello names the two ends of a pair, as the one that dials sees them.
type pairID struct {
	From      string `json:"from"`
	FromEpoch uint64 `json:"from_epoch"`
	To        string `json:"to"`
	ToEpoch   uint64 `json:"to_epoch"`
}

// greeting is what an end says of itself, the header of a hello frame, and of a
// welcome and a ready frame, which name the same two ends.
type greeting struct {
	pairID
	Slots       int           `json:"slots"`
	SlotBytes   int           `json:"slot_bytes"`
	HeaderBytes int           `json:"header_bytes"`
	PeerTimeout time.Duration `json:"peer_timeout_ns"`
	// Lanes is how many connections the end that dials wants, then how many there
	// will be. Token names the first one to the others, each with its Lane.
	Lanes int    `json:"lanes,omitempty"`
	Lane  int    `json:"lane,omitempty"`
	Token string `json:"token,omitempty"`
	// Ring is where on the sender's board the pair's bit is, where they share memory.
	Doorbell int `json:"ring,omitempty"`
	// Fabric is how the sender is reached by its fabric, where they meet by one.
	Fabric *fabricGreeting `json:"fabric,omitempty"`
}

func (e *Endpoint) greeting(h pairID) greeting {
	c := e.cfg
	return greeting{pairID: h, Slots: c.Slots, SlotBytes: c.SlotBytes, HeaderBytes: c.HeaderBytes, PeerTimeout: c.PeerTimeout}
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

// refusal is the reason of an endpoint that does not want a connection, and the
// header of a refuse frame. Temporary where another attempt may succeed.
type refusal struct {
	Reason    string `json:"reason"`
	Temporary bool   `json:"temporary"`
}

func (r *refusal) Error() string { return fmt.Sprintf("%v: %s", ErrRefused, r.Reason) }
func (r *refusal) Unwrap() error { return ErrRefused }

// refusalOf is what the peer is told of err.
func refusalOf(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return &refusal{shorten(r.Reason), r.Temporary}
	}
	return &refusal{Reason: shorten(err.Error())}
}

// brief cuts a text so that, escaped, it fits into a control frame.
func shorten(text string) string {
	const limit = wire.ControlBytes / 8
	if len(text) > limit {
		return strings.ToValidUTF8(text[:limit], "") + "…"
	}
	return text
}

// printable returns a peer's text in a form that may stand in this end's errors, which
// may go to a terminal: a mark is in the place of each character that cannot be
// printed, and the text is as short as brief makes it.
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

// farewell is the header of a goodbye frame: why the pair ends.
type goodbye struct {
	Cause  string `json:"cause"` // a sentinel's text, where there is one
	Reason string `json:"reason"`
}

// sentinels are the causes that a peer can tell.
var knownCauses = []error{ErrClosed, ErrReplaced, ErrRemoved, ErrSilent, ErrBadFrame, ErrTooLarge}

// farewellOf is what the peer is told of the cause of a loss.
func goodbyeOf(cause error) goodbye {
	f := goodbye{Reason: shorten(cause.Error())}
	for _, s := range knownCauses {
		if errors.Is(cause, s) {
			f.Cause = s.Error()
			break
		}
	}
	return f
}

// told is the cause of the loss at the end that hears the farewell.
func (f goodbye) asCause() error {
	reason := printable(f.Reason)
	for _, s := range knownCauses {
		if f.Cause == s.Error() {
			return &peerError{reason, s}
		}
	}
	return &peerError{reason, nil}
}

func parseGoodbye(b []byte) (cause, err error) {
	var g goodbye
	if err := json.Unmarshal(b, &g); err != nil {
		return nil, fmt.Errorf("%w: goodbye: %w", ErrBadFrame, err)
	}
	return g.asCause(), nil
}

type peerError struct {
	reason string
	cause  error
}

func (e *peerError) Error() string { return "the peer says: " + e.reason }
func (e *peerError) Unwrap() error { return e.cause }

// meant checks that a hello is for this incarnation.
func (e *Endpoint) checkAddressee(h pairID) error {
	switch {
	case h.To != e.cfg.ID:
		return &refusal{Reason: fmt.Sprintf("the peer wanted is %q, this is %q", h.To, e.cfg.ID)}
	case h.ToEpoch != e.cfg.Epoch:
		return &refusal{
			Reason:    fmt.Sprintf("the epoch wanted of %q is %d, this is %d", h.To, h.ToEpoch, e.cfg.Epoch),
			Temporary: h.ToEpoch > e.cfg.Epoch, // this incarnation may give way to the next
		}
	}
	return nil
}

// pairFor finds the pair that a hello is about. Ends start in any order: one that
// is not named yet, or only with an older epoch, is waited for until ctx ends.
func (e *Endpoint) pairFor(ctx context.Context, h pairID) (*pair, error) {
	if err := e.checkAddressee(h); err != nil {
		return nil, err
	}
	for {
		p, changed, err := e.lookup(h)
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

// lookup returns the pair, or the error for now; changed is nil where it is final.
func (e *Endpoint) lookup(h pairID) (p *pair, changed <-chan struct{}, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p = e.pairs[h.From]
	switch {
	case e.closing:
		return nil, nil, &refusal{Reason: fmt.Sprintf("%q is closed", e.cfg.ID), Temporary: true}
	case p == nil:
		return nil, e.peersChanged.next(), &refusal{Reason: fmt.Sprintf("peer %q (epoch %d) is not known to %q", h.From, h.FromEpoch, e.cfg.ID)}
	case p.epoch < h.FromEpoch:
		return nil, e.peersChanged.next(), &refusal{Reason: fmt.Sprintf("peer %q has epoch %d, %q knows epoch %d", h.From, h.FromEpoch, e.cfg.ID, p.epoch)}
	case p.epoch > h.FromEpoch:
		p.counters.droppedOld.Add(1)
		return nil, nil, &refusal{Reason: fmt.Sprintf("peer %q has epoch %d, %q knows epoch %d", h.From, h.FromEpoch, e.cfg.ID, p.epoch)}
	}
	return p, nil, nil
}
