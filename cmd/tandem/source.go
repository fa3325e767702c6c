package main

import (
	"math"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/telemetry"
	"github.com/tandem-moe/tandem/telemetry/histogram"
)

// source turns what front end and nodes count into metrics.
type source struct {
	engine *serve.FrontEnd          // asked where stats is nil
	stats  func() []serve.NodeStats // nil where the nodes are elsewhere
}

// Snapshot implements telemetry.Source.
func (s *source) Snapshot() telemetry.Snapshot {
	var snap telemetry.Snapshot
	if s.stats == nil {
		c := s.engine.Counts()
		snap.Running, snap.Waiting = min(c.Requests, c.Capacity), max(0, c.Requests-c.Capacity)
		return snap
	}
	attention, expert := telemetry.Pool{Name: "attention"}, telemetry.Pool{Name: "expert"}
	snap.Gathers.EndedBy = map[string]uint64{}
	for _, n := range s.stats() {
		snap.Communication = snap.Communication.Add(n.Transfer)
		if n.Role == cluster.Attention {
			addAttention(&snap, &attention, n)
		} else {
			addExpert(&snap, &expert, n)
		}
		for _, p := range n.Peers {
			snap.Peers = append(snap.Peers, peer(n.Node, p))
		}
	}
	for _, p := range []telemetry.Pool{attention, expert} {
		if p.Nodes > 0 {
			snap.Pools = append(snap.Pools, p)
		}
	}
	return snap
}

func addPool(p *telemetry.Pool, n serve.NodeStats) {
	p.Nodes++
	p.Busy += n.Busy.Seconds()
	p.Wall += n.Wall.Seconds()
}

func addAttention(snap *telemetry.Snapshot, p *telemetry.Pool, n serve.NodeStats) {
	addPool(p, n)
	snap.Attention = snap.Attention.Add(n.Compute)
	snap.Running += n.Running
	snap.Waiting += n.Waiting
	snap.CacheTokens += n.CacheTokens
	snap.CacheUsed += n.UsedTokens
	snap.PrefixHits += n.PrefixHits
	snap.PrefixQueries += n.PrefixQueries
	snap.Preemptions += n.Preemptions
}

func addExpert(snap *telemetry.Snapshot, p *telemetry.Pool, n serve.NodeStats) {
	addPool(p, n)
	snap.Expert = snap.Expert.Add(n.Compute)
	snap.RowsPerExpert = snap.RowsPerExpert.Add(n.RowsPerExpert)
	g := n.Gather
	snap.Gathers.Calls += uint64(g.Runs)
	snap.Gathers.Messages += uint64(g.Messages)
	snap.Gathers.Rows += uint64(g.Rows)
	for reason, count := range map[string]int{"complete": g.Complete, "forced": g.Forced, "linger": g.Linger} {
		snap.Gathers.EndedBy[reason] += uint64(count)
	}
}

// peer is a node's pair as metrics: what it has sent, and how long that was on
// the wire.
func peer(node string, p m2n.PeerStats) telemetry.Peer {
	out := telemetry.Peer{Name: node + ">" + p.Peer, Latency: latency(p.WireTime)}
	for _, t := range p.Sent {
		out.Messages += t.Messages
		out.Bytes += t.Bytes
	}
	return out
}

// latency turns buckets of powers of two nanoseconds into seconds.
func latency(h m2n.Histogram) histogram.Snapshot {
	s := histogram.Snapshot{Sum: h.Sum.Seconds(), Counts: make([]uint64, m2n.Buckets)}
	copy(s.Counts, h.Buckets[:])
	for i := range m2n.Buckets - 1 {
		s.Bounds = append(s.Bounds, math.Ldexp(1e-9, i))
	}
	return s
}
