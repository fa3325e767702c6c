// Package node owns what attention and expert nodes have in common: statistics, the
// turn in which a node computes, and the memory that it exchanges with other nodes.
// It may not know what a node computes.
package node

import (
	"sync"
	"time"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/serve/gather"
	"github.com/tandem-moe/tandem/telemetry/histogram"
)

// Stats is what a node has done since it started.
type Stats struct {
	Node string
	Role cluster.Role
	// Wall is how long the node had work in flight, Busy how much of that it
	// Computed.
	Wall, Busy time.Duration
	// Compute is the seconds of one part of one layer: T_a of a micro-batch, T_e
	// of a gather.
	Compute histogram.Snapshot
	// Transfer is the seconds of a message from post to arrival: T_c. The time
	// that an Arrived message waits for its turn is not in it.
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
	// StepsGivenUp are those that an expert node's loss ended, to be repeated.
	StepsGivenUp uint64
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

// Recorder is a node's statistics: its loop writes, anybody reads.
type Recorder struct {
	compute, transfer, Rows *histogram.Histogram

	mu    sync.Mutex
	stats Stats
	since time.Time // when work began; zero while there is none
}

func NewRecorder() *Recorder {
	return &Recorder{
		compute:  histogram.New(histogram.Seconds()...),
		transfer: histogram.New(histogram.Seconds()...),
		Rows:     histogram.New(histogram.Powers(16)...),
	}
}

// Update changes the statistics.
func (r *Recorder) Update(change func(*Stats)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.stats)
}

// Working notes whether there is work in flight.
func (r *Recorder) Working(has bool) {
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

// Computed notes one part of one layer.
func (r *Recorder) Computed(t time.Duration) {
	r.compute.Observe(t.Seconds())
	r.Update(func(s *Stats) { s.Busy += t })
}

// busy notes computing that is no part of a layer.
func (r *Recorder) Busy(t time.Duration) {
	r.Update(func(s *Stats) { s.Busy += t })
}

// Arrived notes a message's transfer.
func (r *Recorder) Arrived(c m2n.Completion) {
	r.transfer.Observe(c.Arrived.Sub(c.Posted).Seconds())
}

// Snapshot returns the statistics as of now.
func (r *Recorder) Snapshot() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Compute, s.Transfer, s.RowsPerExpert = r.compute.Snapshot(), r.transfer.Snapshot(), r.Rows.Snapshot()
	if !r.since.IsZero() {
		s.Wall += time.Since(r.since)
	}
	return s
}
