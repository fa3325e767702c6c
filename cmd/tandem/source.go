package main

import (
	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/serve/frontend"
	"github.com/tandem-moe/tandem/serve/node"
	"github.com/tandem-moe/tandem/telemetry"
	"github.com/tandem-moe/tandem/telemetry/histogram"
)

// source turns what front end and nodes count into metrics.
type source struct {
	engine *frontend.FrontEnd  // asked where stats is nil
	stats  func() []node.Stats // nil where the nodes are elsewhere
}

// Snapshot implements telemetry.Source.
func (s *source) Snapshot() telemetry.Snapshot {
	var snap telemetry.Snapshot
	if s.stats == nil {
		c := s.engine.Counts()
		snap.Requests = &telemetry.Requests{Running: min(c.Requests, c.Capacity),
			Waiting: max(0, c.Requests-c.Capacity)}
		return snap
	}
	attention, expert := telemetry.Pool{Name: "attention"}, telemetry.Pool{Name: "expert"}
	for _, n := range s.stats() {
		add(&snap.Communication, n.Transfer)
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

// add adds to a histogram that may not be there yet.
func add(to **histogram.Snapshot, more histogram.Snapshot) {
	sum := known(to)
	*sum = sum.Add(more)
}

// known is what a pointer points to, which it makes if it is nil.
func known[T any](p **T) *T {
	if *p == nil {
		*p = new(T)
	}
	return *p
}

func addPool(p *telemetry.Pool, n node.Stats) {
	p.Nodes++
	p.Busy += n.Busy.Seconds()
	p.Wall += n.Wall.Seconds()
}

func addAttention(snap *telemetry.Snapshot, p *telemetry.Pool, n node.Stats) {
	addPool(p, n)
	add(&snap.Attention, n.Compute)
	requests, cache := known(&snap.Requests), known(&snap.Cache)
	requests.Running += n.Running
	requests.Waiting += n.Waiting
	cache.Tokens += n.CacheTokens
	cache.Used += n.UsedTokens
	cache.PrefixHits += n.PrefixHits
	cache.PrefixQueries += n.PrefixQueries
	cache.Preemptions += n.Preemptions
	*known(&snap.StepsGivenUp) += n.StepsGivenUp
}

func addExpert(snap *telemetry.Snapshot, p *telemetry.Pool, n node.Stats) {
	addPool(p, n)
	experts := known(&snap.Experts)
	experts.Seconds = experts.Seconds.Add(n.Compute)
	experts.RowsPerExpert = experts.RowsPerExpert.Add(n.RowsPerExpert)
	g, to := n.Gather, &experts.Gathers
	to.Calls += uint64(g.Runs)
	to.Messages += uint64(g.Messages)
	to.Rows += uint64(g.Rows)
	if to.EndedBy == nil {
		to.EndedBy = map[string]uint64{}
	}
	for reason, count := range map[string]int{"complete": g.Complete, "forced": g.Forced, "linger": g.Linger} {
		to.EndedBy[reason] += uint64(count)
	}
}

// peer is a node's pair as metrics: what it has sent, and how that went.
func peer(node string, p m2n.PeerStats) telemetry.Peer {
	sent := m2n.Total(p.Sent)
	return telemetry.Peer{
		Name: node + ">" + p.Peer, Transport: transport(p),
		Queue: seconds(p.QueueTime), Wire: seconds(p.WireTime), Latency: seconds(p.TotalTime),
		Receive:    seconds(p.ReceiveTime),
		CreditWait: seconds(p.CreditTime), CreditWaits: p.CreditWaits,
		Messages: sent.Messages, Bytes: sent.Bytes, Queued: p.Queued, Credit: p.Credit,
		Retries: p.Retries, Retransmits: p.Retransmits, Losses: p.Losses, Dropped: p.DroppedOld,
	}
}

// transport is the pair's, or the one that it had.
func transport(p m2n.PeerStats) string {
	if p.Transport != "" {
		return p.Transport
	}
	most := "none"
	for name, t := range p.Sent {
		if best := p.Sent[most].Messages; t.Messages > best || t.Messages == best && name < most {
			most = name
		}
	}
	return most
}

// The bounds of durations in metrics: powers of four from 1 µs to 17 s, as bits of
// nanoseconds.
const (
	shortest = 10
	longest  = 34
)

// seconds turns buckets of powers of two nanoseconds into fewer, of seconds.
func seconds(h m2n.Histogram) histogram.Snapshot {
	s := histogram.Snapshot{Sum: h.Sum.Seconds()}
	var below uint64
	for i, n := range h.Buckets {
		below += n
		if i >= shortest && i <= longest && (i-shortest)%2 == 0 {
			s.Bounds = append(s.Bounds, m2n.BucketBound(i).Seconds())
			s.Counts = append(s.Counts, below)
			below = 0
		}
	}
	s.Counts = append(s.Counts, below)
	return s
}
