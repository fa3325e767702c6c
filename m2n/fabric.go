package m2n

import "context"

// Fabric is a transport that a program brings along, such as RDMA through UCX
// (package m2n/ucx): whatever can carry a header and a list of spans into memory
// that the receiver has laid out. An endpoint owns the Fabric in its Config, drives
// it and closes it.
//
// The pair stays m2n's: its two ends shake hands over TCP, where they exchange the
// fabric's name, address and key. Then messages go by the fabric, and the TCP
// connection stays for credits, keep-alives and the goodbye.
//
//	Open(memory) ──▶ Key ──TCP──▶ peer
//	Connect(peer's address, peer's key)
//	Send ──────────────────────────────▶ slot       Progress: Received
//	Progress: Sent                                  Refill(slot)
//	Close                                           Progress: Failed
//	Progress: Closed                                Close … Closed
//
// The methods may be called from any goroutine, and only Close blocks. A fabric has no
// goroutines of its own: it moves messages and makes events while Progress runs.
type Fabric interface {
	// Name is that of the technology. Two ends with the same name try to connect.
	Name() string
	// Address is what a peer passes to its Connect to reach this fabric.
	Address() []byte
	// Register makes memory known to the hardware until Close, so that this need not be
	// done for each message. Memory that is not registered can be sent too.
	Register(*Region) error
	// Open makes the receiving half of a connection.
	Open(FabricReceiver) (FabricConn, error)
	// EventFD is a descriptor that becomes readable when there is work for Progress,
	// after Arm has returned true. It is -1 where there is none, and Progress has to be
	// called again and again.
	EventFD() int
	// Arm is called before the engine waits for EventFD. It returns false where there is
	// work now: then the engine calls Progress instead.
	Arm() (bool, error)
	// Progress moves messages, writes events, and returns how many. Where it returns
	// len(events) there may be more.
	Progress(events []FabricEvent) int
	// Close closes all connections, and waits until ctx ends for that. Afterwards the
	// hardware touches no memory any more, or the error says that it still may.
	Close(ctx context.Context) error
}

// FabricReceiver is what one end of a connection receives into: Slots slots,
// Stride bytes apart, in Memory. A message takes an empty slot, and holds it until
// Refill.
type FabricReceiver struct {
	Owner       any // of the connection: it is in all its events
	Memory      *Region
	Stride      int
	Slots       int
	SlotBytes   int // the longest body
	HeaderBytes int // the longest header
}

// FabricConn is one end of a connection.
type FabricConn interface {
	// Key names this end. It cannot be guessed, and only the peer gets it: any process
	// that knows it can send here.
	Key() uint64
	// Connect makes the sending half, to the peer's address and key. It does not wait for
	// the peer.
	Connect(address []byte, key uint64) error
	// Send sends a message. It copies the header; the spans must neither change nor be
	// freed until the FabricSent with the token. Messages may overtake each other. After
	// an error there is no such event.
	Send(token uint64, header []byte, body []Span) error
	// Refill makes a slot empty again.
	Refill(slot int)
	// Close ends the connection at once: messages under way are cancelled. After the
	// event FabricClosed the fabric touches neither slots nor spans.
	Close()
}

// FabricEventKind tells what a FabricEvent reports.
type FabricEventKind uint8

const (
	// FabricSent: the spans of the message with that token are the sender's again. Err
	// is set where the message may not have arrived.
	FabricSent FabricEventKind = iota
	// FabricReceived: a message is in a slot. Header is the receiver's to keep.
	FabricReceived
	// FabricFailed: the connection does not work any more, and Err says why. It comes at
	// most once. Messages under way are still reported, and the owner calls Close.
	FabricFailed
	// FabricClosed: the last event of a connection, after Close.
	FabricClosed
)

// FabricEvent is something that has happened to a connection. Fields that are marked
// with kinds are set for those alone.
type FabricEvent struct {
	Kind   FabricEventKind
	Owner  any    // the receiver's
	Token  uint64 // Sent
	Header []byte // Received
	Slot   int    // Received
	Body   int    // Received: bytes in the slot
	Err    error  // Sent, Failed
}
