// Package m2n is the many-to-many communication library: a mesh of endpoints
// that write rows straight into each other's memory. It moves opaque headers
// and lists of spans; it may not know models, experts or anything else of this
// module, so that it can be imported on its own.
//
// An [Endpoint] registers regions once. [Endpoint.Post] sends a message, a
// header and a list of spans, to a peer; the pair connects when it is first
// used. The receiver polls one [Completion] per message, reads the spans where
// they lie, and releases them, which returns the credit to the sender. A peer
// that is lost is an error on that pair alone, within [Config.PeerTimeout].
package m2n

import (
	"context"
	"time"
)

// Event is what a message may wait for before its bytes are read: the work on a
// device that produces them.
type Event interface {
	Wait(ctx context.Context) error
}

// Region is memory registered with an endpoint. User is the owner's, for
// finding its own handle of the memory again; it is never sent.
type Region struct {
	Bytes []byte
	User  any
}

// Span is a piece of a region.
type Span struct {
	Region *Region
	Off    int
	Len    int
}

// Bytes returns the memory of the span.
func (s Span) Bytes() []byte { return s.Region.Bytes[s.Off : s.Off+s.Len] }

// Message is what Post sends. Header is opaque and copied; the spans are read
// after Ready, where it is not nil, and belong to the transport until the
// message's Sent completion.
type Message struct {
	Header []byte
	Body   []Span
	Ready  Event
}

// Kind tells what a Completion reports.
type Kind uint8

const (
	// Received: a message has arrived; its spans are the receiver's until Release.
	Received Kind = iota
	// Sent: a posted message's spans may be reused; Token says which.
	Sent
	// Lost: the pair has failed; Err says why. Later posts to the peer fail until
	// SetPeer names it again, with a higher epoch.
	Lost
)

// Completion is one report of an endpoint.
type Completion struct {
	Kind   Kind
	Peer   string
	Token  uint64 // Sent: what Post returned
	Header []byte // Received
	Body   []Span // Received: the sender's partition, in the receiver's reach
	Err    error  // Lost
	// Posted is when the sender posted the message, where both share a clock
	// (one process), else when its first byte arrived.
	Posted time.Time
	// Arrived is when the last byte was there.
	Arrived time.Time

	release func()
}

// Config is what an endpoint needs to know.
type Config struct {
	// ID names the endpoint to its peers; Epoch is its incarnation: frames of an
	// older epoch of a peer are dropped and counted.
	ID    string
	Epoch uint64
	// Alloc makes receive memory of n bytes, once per connected peer (Slots slots
	// of SlotBytes each); nil means ordinary memory. Not used in process, where
	// a receiver reads the sender's spans.
	Alloc func(n int) (*Region, error)
	// SlotBytes bounds the body of one message; Slots is the credit of one pair:
	// the messages in flight, received and not yet released.
	SlotBytes int
	Slots     int
	// HeaderBytes bounds a header. Default 64 KiB.
	HeaderBytes int
	// PeerTimeout bounds how long a silent or stuck peer stays undetected.
	// Default 2 s.
	PeerTimeout time.Duration
	// DialTimeout bounds a connection attempt. Default 2 s.
	DialTimeout time.Duration
}
