// Package node holds what attention and expert nodes have in common: statistics, the
// turn in which a node computes, and the memory of messages between nodes. It may not
// know what a node computes.
package node

import (
	"sync"
	"time"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/serve/gather"
	"github.com/tandem-moe/tandem/telemetry/histogram"
)

// Stats describes a node's work since its start.
type Stats struct {
	Node string
	Role cluster.Role
	// Wall is how long the node had work in flight, Busy how much of that time it
	// computed.
	Wall, Busy time.Duration
	// Compute has the seconds of one layer's computation: on an attention node the
	// attention of one micro-batch (T_a), on an expert node one run of a gather (T_e).
	Compute histogram.Snapshot
	// Transfer has the seconds of a message from its post to its arrival (T_c),
	// without the time that it then waits for the node's turn.
	Transfer histogram.Snapshot
	Attention
	Expert
	// Peers has m2n's counts for each peer of the node.
	Peers []m2n.PeerStats
}

// Attention has the statistics of attention nodes only.
type Attention struct {
	// Steps counts the steps of micro-batches, Rows the rows of those steps.
	Steps, Rows, Preemptions uint64
	// StepsGivenUp counts the steps that ended early because an expert node was lost,
	// and were repeated.
	StepsGivenUp uint64
	// Running and Waiting count sequences, as of now.
	Running, Waiting int
	// CacheTokens is the size of the KV cache in tokens, UsedTokens that of the pages
	// that sequences hold.
	CacheTokens, UsedTokens int
	// PrefixQueries counts the prompt tokens of sequences that have started,
	// PrefixHits those that the prefix cache held.
	PrefixQueries, PrefixHits uint64
}

// Expert has the statistics of expert nodes only.
type Expert struct {
	Gather gather.Counters
	// RowsPerExpert has the rows of one expert in one run.
	RowsPerExpert histogram.Snapshot
}

// Recorder collects a node's statistics. The node's loop records; any goroutine may
// take a snapshot.
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

// Update lets change alter the statistics.
func (r *Recorder) Update(change func(*Stats)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.stats)
}

// Working records whether there is work in flight.
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

// Computed records one layer's computation; see Stats.Compute.
func (r *Recorder) Computed(t time.Duration) {
	r.compute.Observe(t.Seconds())
	r.Update(func(s *Stats) { s.Busy += t })
}

// Busy records computing outside of the layers.
func (r *Recorder) Busy(t time.Duration) {
	r.Update(func(s *Stats) { s.Busy += t })
}

// Arrived records a message's transfer.
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
