package m2n

import (
	"sync/atomic"
	"time"
)

// PeerStats is what an endpoint has counted for one peer, over all its
// incarnations. Counts never fall, until RemovePeer.
type PeerStats struct {
	Endpoint  string `json:"endpoint,omitempty"` // whose counts these are
	Peer      string `json:"peer"`
	Epoch     uint64 `json:"epoch"`
	Transport string `json:"transport,omitempty"` // of the present connection; "" where there is none
	Why       string `json:"why,omitempty"`       // that transport, and none before it
	State     string `json:"state"`               // idle, connecting, up, lost

	Sent     map[string]Traffic `json:"sent"`     // by transport
	Received map[string]Traffic `json:"received"` // by transport
	Queued   int                `json:"queued"`   // posted, not yet on the wire
	Credit   int                `json:"credit"`   // messages that may be sent at once

	// CreditWaits are the messages that had to wait for a credit; CreditTime is how
	// long those waited that have got one.
	CreditWaits uint64    `json:"credit_waits"`
	CreditTime  Histogram `json:"credit_time"`

	// Of sent messages: from the post until the transport takes it, which is the
	// wait for its event, for a credit and for the messages before it; from there
	// until it is out, which is when Sent is reported; and both together.
	QueueTime Histogram `json:"queue_time"`
	WireTime  Histogram `json:"wire_time"`
	TotalTime Histogram `json:"total_time"`
	// ReceiveTime is that of received messages: from the post, where both ends share
	// a clock, else from the first byte, until Poll hands the message out.
	ReceiveTime Histogram `json:"receive_time"`

	DroppedOld  uint64 `json:"dropped_old"` // frames and connections of an older epoch
	Connects    uint64 `json:"connects"`
	Retries     uint64 `json:"retries"`     // tries to connect that failed
	Retransmits uint64 `json:"retransmits"` // TCP segments sent again, where the system tells
	Losses      uint64 `json:"losses"`
}

// Traffic counts messages and the bytes of their headers and bodies.
type Traffic struct {
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
}

// Total is the sum over transports.
func Total(byTransport map[string]Traffic) Traffic {
	var sum Traffic
	for _, t := range byTransport {
		sum.Messages += t.Messages
		sum.Bytes += t.Bytes
	}
	return sum
}

// transports that a message may travel by, as indices of counters.
const (
	viaInproc = iota
	viaSHM
	viaTCP
	viaUCX
	numTransports
)

var transportNames = [numTransports]string{viaInproc: "inproc", viaSHM: "shm", viaTCP: "tcp", viaUCX: "ucx"}

type traffic struct{ messages, bytes atomic.Uint64 }

func (t *traffic) add(bytes int) {
	t.messages.Add(1)
	t.bytes.Add(uint64(bytes))
}

// counters are one peer's, kept over its incarnations.
type counters struct {
	sent, received                 [numTransports]traffic
	queueTime, wireTime, totalTime histogram
	receiveTime, creditTime        histogram
	creditWaits                    atomic.Uint64
	droppedOld, connects, losses   atomic.Uint64
	retries, retransmits           atomic.Uint64
}

// out notes that a message is out, which was posted and taken at these times.
func (c *counters) noteSent(posted, taken time.Time) {
	now := time.Now()
	c.wireTime.add(now.Sub(taken))
	c.totalTime.add(now.Sub(posted))
}

// handed notes that Poll hands out a message, which was posted, or began to come,
// at this time.
func (c *counters) handedOut(posted time.Time) { c.receiveTime.add(time.Since(posted)) }

func (c *counters) snapshot() PeerStats {
	return PeerStats{
		Sent: trafficOf(&c.sent), Received: trafficOf(&c.received),
		CreditWaits: c.creditWaits.Load(), CreditTime: c.creditTime.snapshot(),
		QueueTime: c.queueTime.snapshot(), WireTime: c.wireTime.snapshot(), TotalTime: c.totalTime.snapshot(),
		ReceiveTime: c.receiveTime.snapshot(),
		DroppedOld:  c.droppedOld.Load(), Connects: c.connects.Load(), Losses: c.losses.Load(),
		Retries: c.retries.Load(), Retransmits: c.retransmits.Load(),
	}
}

func trafficOf(ts *[numTransports]traffic) map[string]Traffic {
	m := make(map[string]Traffic)
	for i := range ts {
		if t := (Traffic{ts[i].messages.Load(), ts[i].bytes.Load()}); t.Messages > 0 {
			m[transportNames[i]] = t
		}
	}
	return m
}
