package m2n

import (
	"sync/atomic"
	"time"
)

// PeerStats is what an endpoint has counted for one peer, over all incarnations of the
// peer. Counts never fall; RemovePeer ends them.
type PeerStats struct {
	Endpoint  string `json:"endpoint,omitempty"` // that has counted
	Peer      string `json:"peer"`
	Epoch     uint64 `json:"epoch"`
	Transport string `json:"transport,omitempty"` // of the pair; "" where it is not up
	Why       string `json:"why,omitempty"`       // why that transport was chosen
	State     string `json:"state"`               // idle, connecting, up, lost

	Sent     map[string]Traffic `json:"sent"`     // by transport
	Received map[string]Traffic `json:"received"` // by transport
	Queued   int                `json:"queued"`   // messages that wait in the sender's queue
	Credit   int                `json:"credit"`   // messages that may be sent at once

	// CreditWaits counts the messages that had to wait for a credit. CreditTime is how
	// long those of them waited that have got one since.
	CreditWaits uint64    `json:"credit_waits"`
	CreditTime  Histogram `json:"credit_time"`

	// Times of sent messages. QueueTime is from the post until the message leaves the
	// queue: the wait for its event, for a credit and for the messages before it.
	// WireTime is from there until its Sent is pushed. TotalTime is both together.
	QueueTime Histogram `json:"queue_time"`
	WireTime  Histogram `json:"wire_time"`
	TotalTime Histogram `json:"total_time"`
	// ReceiveTime is of received messages, until Poll returns the message: from the post
	// in process and in shared memory, else from the message's first byte.
	ReceiveTime Histogram `json:"receive_time"`

	DroppedOld  uint64 `json:"dropped_old"` // frames and connections of an older epoch
	Connects    uint64 `json:"connects"`
	Retries     uint64 `json:"retries"`     // dial attempts that failed
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

// The transports that a message may travel by, as indices of counters.
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

// counters are those of one peer, over all its incarnations.
type counters struct {
	sent, received                 [numTransports]traffic
	queueTime, wireTime, totalTime histogram
	receiveTime, creditTime        histogram
	creditWaits                    atomic.Uint64
	droppedOld, connects, losses   atomic.Uint64
	retries, retransmits           atomic.Uint64
}

// noteSent counts the times of a message whose Sent is about to be pushed.
func (c *counters) noteSent(posted, dequeued time.Time) {
	now := time.Now()
	c.wireTime.add(now.Sub(dequeued))
	c.totalTime.add(now.Sub(posted))
}

// handedOut counts the time of a message that Poll returns. posted is as in Completion.
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
