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
//     an Err where the pair failed before the message was known to be out; the
//     peer may have received the message all the same.
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
//
// # How to read the code
//
// post.go lists the hops of a message by file and function. A pair (pair.go) has a
// queue and a link: inprocLink, or wireLink, which has lanes (lane.go, lane_state.go)
// and may have a transport beside them. window.go is the flow control, engine.go who
// reads, watchdog.go who notices a silent peer, handshake*.go and dial.go how a pair
// connects. Frames are m2n/internal/wire's, shared memory is m2n/internal/shm's,
// sockets are m2n/internal/poll's.
//
// # What happens when a peer dies
//
// Say that it dies with two messages in flight. The end of the connection tells, or,
// where the peer is only cut off, the watchdog, within [Config.PeerTimeout]
// (lane.checkAlive). pair.fail takes the pair down with the cause. A message that is
// half written is given up (lane.finishBatch), one that is queued is not sent
// (pair.reportLoss); both are reported Sent with a [LostError], then the pair is
// reported Lost.
//
// Sent tells nothing about what the peer has seen. Without an error it means that the
// message was given to the kernel, or to shared memory, as a whole: the peer may have
// died before reading it. With an error the message may have arrived: over TCP up to 16
// messages are written as one batch and reported together (lane.reportBatch), so that
// a batch that fails reports an error also for those of its messages that went out
// whole.
//
// What was received of the peer and is not released stays readable until Release. A
// message of which only a part has come gives its slot back when its lane has closed
// (lane.freeSlot). receiveWindow.release frees the memory after the last of them.
//
// Nothing is sent again: a user that wants the work repeated posts it anew. For that the
// user names the peer again: SetPeer with a higher epoch makes a new pair, and so does
// RemovePeer followed by SetPeer with the same epoch.
//
// # What bounds a receiver's memory
//
// Each peer connected by TCP, shared memory or a fabric costs Slots · SlotBytes, from
// Config.Alloc, when it connects (window.go: newReceiveWindow); in shared memory each
// slot also has room for the longest header and list of spans (internal/shm:
// NewLayout): 320 KiB with the default HeaderBytes. A sender may have Slots messages in
// the receiver's hands, and each is held to SlotBytes and HeaderBytes before anything is
// allocated for it (internal/wire: Bounds). Headers, lists of spans and completions are
// allocated per message: the former two at most HeaderBytes and 64 Ki lengths each, of
// at most Slots messages per peer, and of one frame more per connection: the frame that
// is arriving. A frame of an older epoch takes no slot: its body is read into
// discardBytes (lane.go) and dropped. A sender's queue is bounded by Config.Queue, the
// connections of strangers by maxHandshakes (handshake_tcp.go).
//
// # Where a transport is added
//
// One that can move a header and spans into memory that the receiver has laid out is a
// [Fabric], outside of this package, as m2n/ucx is. An endpoint has one fabric at most
// (Config.Fabric). Whatever the fabric's name is, addresses reach it by the scheme ucx
// (pair.dialBy), and its messages are counted as ucx (viaUCX). One that needs more is a
// transport
// (transport.go; transport_shm.go is an example): it sends what pair.dequeue gives and
// delivers by wireLink.deliver, while the link's lane carries credits, keep-alives and
// the goodbye. It also needs a handshake (handshake_shm_linux.go), a scheme in
// splitAddr and pair.dialBy (dial.go), an index of counters (stats.go), and a place in
// the tests that go through the transports: mesh_test.go and chaos_test.go (in process,
// TCP, TLS, shared memory), soak_test.go and faults_test.go (without in process),
// process_test.go and crowd_test.go (TCP and shared memory only). A fabric has its own
// tests in fabric_linux_test.go.
package m2n

import (
	"context"
	"time"
)

// Event is something that a message may wait for before its bytes are read: the work on
// a device that computes them. Wait returns nil once the event has completed. The first
// call is with a context that has already ended, to learn without waiting whether the
// event has completed; Wait should return nil then if it has.
type Event interface {
	Wait(ctx context.Context) error
}

// Region is memory that is registered with an endpoint. User is for the owner, who can
// find a handle of the memory there; it is never sent.
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

// Message is what Post sends. Post copies the header, which is opaque, and the list of
// spans. The memory of the spans is read once Ready, where it is not nil, has completed,
// and belongs to the transport until the message's Sent completion.
type Message struct {
	Header []byte
	Body   []Span
	Ready  Event
}

// Kind tells what a Completion reports.
type Kind uint8

const (
	// Received: a message has arrived. Its spans are the receiver's until Release.
	Received Kind = iota
	// Sent: the spans of the posted message that Token names may be reused. In process
	// it comes when the receiver releases the message, in shared memory when the message
	// is written there, over TCP when the kernel has the last byte of the up to 16
	// messages that are written together, over a fabric when the fabric does not need the
	// spans any more. Err is set where the pair failed first; the message may have
	// arrived all the same. An answer may be polled before the Sent of its question.
	Sent
	// Lost: the pair has failed, and Err is a *LostError that says why. Posts to the peer
	// fail from then on, until SetPeer names it with a higher epoch, or with any epoch
	// after RemovePeer.
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
	Body   []Span // Received: as many spans, as long as the sender's
	Err    error  // Lost, and Sent of a message that may not have arrived
	// Posted is when the sender posted the message, in process and in
	// shared memory, else when the message's first byte arrived.
	Posted time.Time
	// Arrived is when the last byte arrived.
	Arrived time.Time

	pair *pair
	held receipt // of a Received
}

// receipt is what a receiver holds of a message until Release.
type receipt interface {
	// release gives the message's memory back. Only the first call of release or drop
	// does anything.
	release()
	// drop is release of a message that the consumer has not seen.
	drop()
}
