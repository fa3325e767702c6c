package serve

import (
	"sync"
	"time"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/serve/gather"
	"github.com/tandem-moe/tandem/telemetry/histogram"
)

// NodeStats is what a node has done since it started.
type NodeStats struct {
	Node string
	Role cluster.Role
	// Wall is how long the node had work in flight, Busy how much of that it
	// computed.
	Wall, Busy time.Duration
	// Compute is the seconds of one part of one layer: T_a of a micro-batch, T_e
	// of a gather.
	Compute histogram.Snapshot
	// Transfer is the seconds of a message from post to arrival: T_c. The time
	// that an arrived message waits for its turn is not in it.
	Transfer histogram.Snapshot
	Attention
	Expert
	// Peers are the pairs, as m2n counts them.
	Peers []m2n.PeerStats
}

// Attention is what only attention nodes count.
type Attention struct {
	// Steps of micro-batches, and their Rows.
	Steps, Rows, Preemptions uint64
	// Running and Waiting are sequences.
	Running, Waiting int
	// CacheTokens is the size of the KV cache, UsedTokens the room of the pages
	// that sequences hold.
	CacheTokens, UsedTokens int
	// PrefixQueries are the prompt tokens of sequences that have begun, PrefixHits
	// those of them that the prefix cache held.
	PrefixQueries, PrefixHits uint64
}

// Expert is what only expert nodes count.
type Expert struct {
	Gather gather.Counters
	// RowsPerExpert is the rows of one expert in one call.
	RowsPerExpert histogram.Snapshot
}

// recorder is a node's statistics: its loop writes, anybody reads.
type recorder struct {
	compute, transfer, rows *histogram.Histogram

	mu    sync.Mutex
	stats NodeStats
	since time.Time // when work began; zero while there is none
}

func newRecorder() *recorder {
	return &recorder{
		compute:  histogram.New(histogram.Seconds()...),
		transfer: histogram.New(histogram.Seconds()...),
		rows:     histogram.New(histogram.Powers(16)...),
	}
}

// update changes the statistics.
func (r *recorder) update(change func(*NodeStats)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.stats)
}

// working notes whether there is work in flight.
func (r *recorder) working(has bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch now := time.Now(); {
	case has && r.since.IsZero():
		r.since = now
	case !has && !r.since.IsZero():
		r.stats.Wall += now.Sub(r.since)
		r.since = time.Time{}
	}
}

// computed notes one part of one layer.
func (r *recorder) computed(t time.Duration) {
	r.compute.Observe(t.Seconds())
	r.update(func(s *NodeStats) { s.Busy += t })
}

// busy notes computing that is no part of a layer.
func (r *recorder) busy(t time.Duration) {
	r.update(func(s *NodeStats) { s.Busy += t })
}

// arrived notes a message's transfer.
func (r *recorder) arrived(c m2n.Completion) {
	r.transfer.Observe(c.Arrived.Sub(c.Posted).Seconds())
}

// snapshot returns the statistics as of now.
func (r *recorder) snapshot() NodeStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Compute, s.Transfer, s.RowsPerExpert = r.compute.Snapshot(), r.transfer.Snapshot(), r.rows.Snapshot()
	if !r.since.IsZero() {
		s.Wall += time.Since(r.since)
	}
	return s
}
