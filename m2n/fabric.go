package m2n

import "context"

// Fabric is a transport that a program brings along, such as RDMA through UCX
// (package m2n/ucx): whatever can carry a header and a list of spans into memory
// that the receiver has laid out. An endpoint owns the one in its Config, drives
// it and closes it.
//
// The pair stays m2n's: it meets its peer over TCP, where the two tell each other
// the fabric's name, address and key; then messages go by the fabric, and the
// TCP connection stays for credits, signs of life and the goodbye.
//
//	Open(memory) ──▶ Key ──TCP──▶ peer
//	Connect(peer's address, peer's key)
//	Send ──────────────────────────────▶ slot       Progress: Received
//	Progress: Sent                                  Refill(slot)
//	Close                                           Progress: Failed
//	Progress: Closed                                Close … Closed
//
// The methods may be called from any goroutine, and none of them blocks but
// Close. Nothing happens by itself: messages and events come while Progress runs.
type Fabric interface {
	// Name is that of the technology. Two ends with the same name try to connect.
	Name() string
	// Address is what the peer's Connect needs to reach this fabric.
	Address() []byte
	// Register makes memory known to the hardware until Close, which saves that
	// work for each message. Memory that is not registered can be sent too.
	Register(*Region) error
	// Open makes the receiving half of a connection.
	Open(FabricReceiver) (FabricConn, error)
	// EventFD is a descriptor that is readable once there is work for Progress,
	// after Arm has returned true; -1 where Progress has to be asked again and
	// again.
	EventFD() int
	// Arm is called before waiting for EventFD. It is false where there is work
	// now: then it is Progress's turn.
	Arm() (bool, error)
	// Progress moves messages, and writes what has happened to events. It returns
	// how many; as many as there was room for means that there may be more.
	Progress(events []FabricEvent) int
	// Close closes all connections and gives up waiting for them with ctx. Then
	// nothing touches memory any more, or the error says that something still may.
	Close(ctx context.Context) error
}

// FabricReceiver is what one end of a connection receives into: Slots slots,
// Stride bytes apart, in Memory. A message takes an empty slot, and holds it until
// Refill.
type FabricReceiver struct {
	Owner       any // who is told: it stands in the events
	Memory      *Region
	Stride      int
	Slots       int
	SlotBytes   int // the longest body
	HeaderBytes int // the longest header
}

// FabricConn is one end of a connection.
type FabricConn interface {
	// Key names this end. It cannot be guessed, and is told to the peer alone:
	// whoever knows it can send here.
	Key() uint64
	// Connect makes the sending half. It does not wait for the peer.
	Connect(address []byte, key uint64) error
	// Send sends a message. The header is copied; the spans must not change, nor
	// go away, until the event that returns the token. Messages may overtake each
	// other. After an error there is no such event.
	Send(token uint64, header []byte, body []Span) error
	// Refill makes a slot empty again.
	Refill(slot int)
	// Close ends the connection at once: what is under way is cancelled. After its
	// event FabricClosed nothing touches the slots, nor any span.
	Close()
}

// FabricEventKind tells what a FabricEvent reports.
type FabricEventKind uint8

const (
	// FabricSent: a message's spans are the sender's again; Err is set where it may
	// not have arrived.
	FabricSent FabricEventKind = iota
	// FabricReceived: a message is in a slot. Header is the receiver's to keep.
	FabricReceived
	// FabricFailed: the connection does not work any more, and Err says why. It
	// comes at most once. What was sent is still reported, and Close is to be
	// called.
	FabricFailed
	// FabricClosed: the last event of a connection, after Close.
	FabricClosed
)

// FabricEvent is something that has happened to a connection.
type FabricEvent struct {
	Kind   FabricEventKind
	Owner  any    // the receiver's
	Token  uint64 // Sent
	Header []byte // Received
	Slot   int    // Received
	Body   int    // Received: bytes in the slot
	Err    error  // Sent, Failed
}
