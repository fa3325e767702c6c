package m2n

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Buckets is the number of a Histogram's buckets.
const Buckets = 40

// Histogram counts durations in powers of two: bucket 0 is 0 ns, bucket b holds
// 2^(b-1) ≤ d < 2^b nanoseconds; the last one also what is longer (275 s).
type Histogram struct {
	Count   uint64
	Sum     time.Duration
	Buckets [Buckets]uint64
}

// Mean is the average duration, 0 where nothing was counted.
func (h Histogram) Mean() time.Duration {
	if h.Count == 0 {
		return 0
	}
	return h.Sum / time.Duration(h.Count)
}

// Quantile returns the upper bound of the bucket in which the q-th (0 to 1) part
// of the durations ends.
func (h Histogram) Quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.Count))
	var seen uint64
	for b, n := range h.Buckets {
		seen += n
		if n > 0 && seen > rank || seen == h.Count {
			return BucketBound(b)
		}
	}
	return BucketBound(Buckets - 1)
}

// BucketBound is the upper bound of bucket b, exclusive.
func BucketBound(b int) time.Duration { return 1 << b }

// PeerStats is what an endpoint has counted for one peer, over all its
// incarnations.
type PeerStats struct {
	Peer      string
	Epoch     uint64
	Transport string // of the present connection; "" where there is none
	State     string // idle, connecting, up, lost

	Sent, Received      map[string]Traffic // by transport
	Queued              int                // posted, not yet on the wire
	Credit              int                // messages that may be sent at once
	CreditWaits         uint64             // messages that had to wait for a credit
	DroppedOld          uint64             // frames and connections of an older epoch
	Connects            uint64
	Losses              uint64
	QueueTime, WireTime Histogram // of sent messages: post to wire; on the wire
}

// Traffic counts messages and the bytes of their headers and bodies.
type Traffic struct {
	Messages uint64
	Bytes    uint64
}

type histogram struct {
	sum     atomic.Int64
	buckets [Buckets]atomic.Uint64
}

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.sum.Add(int64(d))
	h.buckets[min(bits.Len64(uint64(d)), Buckets-1)].Add(1)
}

func (h *histogram) snapshot() Histogram {
	s := Histogram{Sum: time.Duration(h.sum.Load())}
	for b := range h.buckets {
		s.Buckets[b] = h.buckets[b].Load()
		s.Count += s.Buckets[b]
	}
	return s
}

// transports that a message may travel by, as indices of counters.
const (
	inproc = iota
	tcp
	transports
)

var transportNames = [transports]string{inproc: "inproc", tcp: "tcp"}

type traffic struct{ messages, bytes atomic.Uint64 }

func (t *traffic) add(bytes int) {
	t.messages.Add(1)
	t.bytes.Add(uint64(bytes))
}

// counters are one peer's, kept over its incarnations.
type counters struct {
	sent, received      [transports]traffic
	queueTime, wireTime histogram
	creditWaits         atomic.Uint64
	droppedOld          atomic.Uint64
	connects            atomic.Uint64
	losses              atomic.Uint64
}

func (c *counters) snapshot() PeerStats {
	return PeerStats{
		Sent: trafficOf(&c.sent), Received: trafficOf(&c.received),
		CreditWaits: c.creditWaits.Load(), DroppedOld: c.droppedOld.Load(),
		Connects: c.connects.Load(), Losses: c.losses.Load(),
		QueueTime: c.queueTime.snapshot(), WireTime: c.wireTime.snapshot(),
	}
}

func trafficOf(ts *[transports]traffic) map[string]Traffic {
	m := make(map[string]Traffic)
	for i := range ts {
		if t := (Traffic{ts[i].messages.Load(), ts[i].bytes.Load()}); t.Messages > 0 {
			m[transportNames[i]] = t
		}
	}
	return m
}
