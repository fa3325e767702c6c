// Package telemetry owns what Tandem tells of itself: its metrics, under vLLM's
// names where the meaning is the same. It may not know engines or HTTP routes:
// what an engine counts comes as a Snapshot, and what requests go through as
// calls.
package telemetry

import "github.com/tandem-moe/tandem/telemetry/histogram"

// Source tells what an engine has counted; it is asked at each scrape.
type Source interface{ Snapshot() Snapshot }

// Snapshot is an engine's state and its counts since it started. Counts never
// fall. What is nil is not known here, and is left out of the metrics: a front end
// does not know what its nodes count, and a node not what others do. A 0 would say
// that nothing had happened.
type Snapshot struct {
	Requests  *Requests
	Cache     *Cache
	Attention *histogram.Snapshot // T_a: seconds per micro-batch and layer, computing alone
	Experts   *Experts
	// Communication is T_c: seconds of a micro-batch's rows, from posting to
	// completion.
	Communication *histogram.Snapshot
	// StepsGivenUp are those of attention nodes that lost an expert node meanwhile, and
	// are repeated.
	StepsGivenUp *uint64
	Pools        []Pool
	Peers        []Peer
}

// Requests are sequences.
type Requests struct{ Running, Waiting int }

// Cache is the KV cache of all attention nodes.
type Cache struct {
	// Tokens and Used are its size and what is in use, in tokens.
	Tokens, Used int
	// PrefixQueries and PrefixHits are prompt tokens looked up in the prefix
	// cache, and found there.
	PrefixQueries, PrefixHits uint64
	// Preemptions are sequences that gave up their cache to others.
	Preemptions uint64
}

// Experts are what expert nodes do.
type Experts struct {
	// Seconds is T_e: per micro-batch and layer, computing alone.
	Seconds histogram.Snapshot
	// RowsPerExpert is the rows of one expert in one grouped GEMM.
	RowsPerExpert histogram.Snapshot
	Gathers       Gathers
}

// Gathers counts what expert nodes wait for and run.
type Gathers struct {
	// EndedBy counts gathers by what ended them: "complete", "linger", ….
	EndedBy map[string]uint64
	// Calls are runs of a layer's experts, Messages what their rows arrived in.
	Calls, Messages, Rows uint64
}

// Aggregation is rows per expert call ÷ rows per message: how many attention
// nodes' rows meet in a call. 0 where there was no call.
func (g Gathers) Aggregation() float64 {
	if g.Calls == 0 {
		return 0
	}
	return float64(g.Messages) / float64(g.Calls)
}

// Pool is the attention or the expert nodes: the seconds in which they computed,
// and those in which they could have, summed over nodes.
type Pool struct {
	Name       string
	Nodes      int
	Busy, Wall float64
}

// Bubble is 1 − busy/wall: the share of time that the pool stood idle.
func (p Pool) Bubble() float64 {
	if p.Wall == 0 {
		return 0
	}
	return 1 - p.Busy/p.Wall
}

// Peer is one direction of a pair of nodes, as m2n sees it from the end that
// sends.
type Peer struct {
	Name      string
	Transport string
	// Queue, Wire and Latency are seconds of messages that were sent: until the
	// transport takes one, from there until it is out, and both together.
	Queue, Wire, Latency histogram.Snapshot
	// Receive is the seconds of a message that comes from the peer, until it is
	// handed out.
	Receive histogram.Snapshot
	// CreditWait is the seconds for which messages waited for a credit; CreditWaits
	// counts those that still do, too.
	CreditWait      histogram.Snapshot
	CreditWaits     uint64
	Messages, Bytes uint64
	Queued, Credit  int
	// Retries are failed tries to connect, Retransmits TCP segments that were sent
	// again, Losses lost connections, and Dropped frames of incarnations that are
	// over.
	Retries, Retransmits, Losses, Dropped uint64
}
