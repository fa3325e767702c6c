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
//
// # What is promised
//
//   - Messages of a pair arrive in the order of their posts, each once.
//   - Every message that Post accepted is reported Sent exactly once. Until then
//     its spans are the transport's; then they are the poster's again. Sent has
//     an Err where the pair failed before the message was known to be out.
//   - At most Slots messages per pair and direction are with the receiver,
//     received and not yet released; the others wait with the sender, whose
//     queue is bounded.
//   - A pair that fails is reported Lost once, at both ends, and nothing of it
//     is received after that. No other pair is touched.
//   - Post never blocks; every wait of the library itself is bounded.
//
// Transports are in process (no copy), shared memory (one copy), TCP, TLS and
// fabrics such as UCX; a peer's address says which are wanted, see
// [Endpoint.Listen]. Docs and pictures are in docs/m2n.md.
package m2n

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// Event is what a message may wait for before its bytes are read: the work on a
// device that produces them. It is first asked with a context that has already
// ended, so as to learn without waiting whether it has completed: it should
// return nil then where it has.
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

// Message is what Post sends. Header is opaque and copied, and so is the list of
// spans; the memory of the spans is read after Ready, where it is not nil, and
// belongs to the transport until the message's Sent completion.
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
	// Sent: a posted message's spans may be reused; Token says which. In process
	// it comes when the receiver releases, in shared memory when it is written, over
	// TCP when the last byte is with the kernel. Err is set where the pair failed
	// first. An answer may be polled before the Sent of what it answers.
	Sent
	// Lost: the pair has failed; Err is a *LostError that says why. Later posts to
	// the peer fail until SetPeer names it again, with a higher epoch.
	Lost
)

// String returns the kind's name.
func (k Kind) String() string {
	switch k {
	case Received:
		return "received"
	case Sent:
		return "sent"
	case Lost:
		return "lost"
	}
	return "unknown"
}

// Completion is one report of an endpoint.
type Completion struct {
	Kind   Kind
	Peer   string
	Token  uint64 // Sent: what Post returned
	Header []byte // Received
	Body   []Span // Received: the sender's partition, in the receiver's reach
	Err    error  // Lost, and Sent of a message that may not have arrived
	// Posted is when the sender posted the message, where both share a clock
	// (one process), else when its first byte arrived.
	Posted time.Time
	// Arrived is when the last byte was there.
	Arrived time.Time

	pair *pair   // Received, Sent, Lost: the pair at this end
	held receipt // Received: what Release gives back
}

// receipt is what a receiver holds of a message until it releases it.
type receipt interface {
	// release gives it back; a second call of either does nothing.
	release()
	// drop is release where the receiver has not seen the message.
	drop()
}

// Config is what an endpoint needs to know.
type Config struct {
	// ID names the endpoint to its peers; Epoch is its incarnation: frames of an
	// older epoch of a peer are dropped and counted.
	ID    string
	Epoch uint64
	// Network is where inproc: addresses are looked up; nil means that the
	// endpoint has no peers in its own process.
	Network *Network
	// Alloc makes receive memory of n bytes, once per connected peer (Slots slots
	// of SlotBytes each, rounded up to 64); nil means ordinary memory. Free gets
	// it back once the pair is lost and its last message released; it may be nil.
	// Neither is used in process, where a receiver reads the sender's spans. Both
	// are called from goroutines of the endpoint, Alloc by one at a time.
	Alloc func(n int) (*Region, error)
	Free  func(*Region)
	// Adopt makes a region of memory that is shared with a peer's process, to
	// receive into; it is given to Free before it goes. nil means that it is used
	// as it is; where Alloc is set it means that there is no shared memory.
	Adopt func(mem []byte) (*Region, error)
	// SlotBytes bounds the body of one message that this endpoint receives
	// (default 1 MiB); Slots is the credit that it gives each peer: the messages
	// in flight, received and not yet released (default 8). With the defaults
	// each peer connected by TCP costs 8 MiB.
	SlotBytes int
	Slots     int
	// HeaderBytes bounds a received header. Default 64 KiB.
	HeaderBytes int
	// Queue bounds the messages per pair that were posted and whose Sent has not
	// been polled. Default 4·Slots + 64.
	Queue int
	// PeerTimeout bounds how long a silent or stuck peer stays undetected.
	// Default 2 s: a stopped process is Lost between 2.0 and 2.3 s later. A message
	// that has begun to come is stuck where less than a kilobyte of it comes in that
	// time (more where the peer's PeerTimeout is shorter); with TLS what comes is
	// counted by records of up to 16 KiB.
	PeerTimeout time.Duration
	// DialTimeout bounds making a connection, retries and the wait for the peer's
	// SetPeer included. Default 2 s.
	DialTimeout time.Duration
	// Connections is how many TCP connections this end makes when it dials a peer:
	// with one everything shares it; with more the first is for credits, signs of
	// life and goodbyes, so that they do not wait behind bodies, and messages take
	// turns on the others. Default 2, at most 16.
	Connections int
	// Pace bounds what a TCP connection of messages sends, in bytes a second, and
	// Congestion names the kernel's algorithm of congestion control for it ("bbr",
	// say): where many senders share a link whose queues are long, either keeps the
	// queues short. Defaults: no bound, the system's. Both are Linux's.
	Pace       int
	Congestion string
	// Dial makes a TCP connection to HOST:PORT; nil means plain TCP. For tests, and
	// for networks with ways of their own.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// TLS secures TCP connections: TLS 1.3, mutual. It serves both roles, so it has
	// RootCAs and ServerName for dialling, and Certificates, ClientCAs and
	// ClientAuth for accepting. Connections of Dial and of listeners are wrapped in
	// it too. nil means plain TCP, whose payloads carry checksums; with TLS they
	// carry none. Memory transports do not use it.
	TLS *tls.Config
	// Fabric is a transport of the program's, for peers at ucx: addresses that have
	// one of the same name; the endpoint drives and closes it. nil means none.
	Fabric Fabric
	// ReadyTimeout bounds the wait for a message's Ready event. Default 1 min.
	ReadyTimeout time.Duration
	// SpinFor is how long Poll looks again and again before it sleeps: where what
	// comes usually comes as soon as that, and no more threads of the host are busy
	// than there are cores. Sleeping costs a wake-up of some 5 µs, spinning a core.
	// Default 50 µs; negative: never. In one process, where a wake-up costs less, 0
	// means not to spin.
	SpinFor time.Duration
}
