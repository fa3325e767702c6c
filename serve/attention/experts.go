package attention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/attention/pairs"
	"github.com/tandem-moe/tandem/serve/node"
)

// SetExperts says which expert nodes the cluster has, by place; one without an id is
// a place that nobody has. It may be called from any goroutine, before Run and during
// it. Pairs with nodes that are gone end at once, also where the loop waits for one.
func (n *Node) SetExperts(members []pairs.Member) {
	members = slices.Clone(members)
	n.mu.Lock()
	gone := slices.Clone(n.members)
	n.members = members
	n.mu.Unlock()
	for _, m := range gone {
		if m.ID != "" && !slices.Contains(members, m) {
			n.cfg.Endpoint.RemovePeer(m.ID)
		}
	}
	n.tell(command{do: func() error { return n.apply(n.pairs.Members(members, time.Now())) }})
}

// apply does what the pairs decide.
func (n *Node) apply(a pairs.Actions) error {
	for _, id := range a.Forget {
		n.cfg.Endpoint.RemovePeer(id)
	}
	if len(a.Down) > 0 {
		if err := n.giveUp(a.Down); err != nil {
			return err
		}
	}
	for _, place := range a.Connect {
		if err := n.connect(place); err != nil {
			return err
		}
	}
	n.tellPairs()
	return nil
}

// connect says hello to the expert node of a place, which makes the pair: that nothing
// is in flight.
func (n *Node) connect(place int) error {
	m := n.pairs.Pair(place).Member
	if err := n.cfg.Endpoint.SetPeer(m.ID, m.Addr, m.Epoch); err != nil {
		return n.apply(n.pairs.Failed(place, err, time.Now()))
	}
	hello := route.Header{Kind: route.Status, Placement: n.placement.Version}
	token, err := n.cfg.Endpoint.Post(m.ID, m2n.Message{Header: hello.Append(nil)})
	if errors.Is(err, m2n.ErrClosed) {
		return err
	}
	if err != nil {
		return n.apply(n.pairs.Failed(place, err, time.Now()))
	}
	n.pairs.Greeted(place, token)
	return nil
}

// giveUp ends the steps in flight, since expert nodes are lost, and tells the other
// expert nodes so. Once all places have expert nodes again the steps are repeated, and
// give the same bits:
//
//   - A step changes nothing but KV pages until its head, which waits for no expert
//     node: no token of it has been chosen, and none can be chosen twice.
//   - What it wrote to KV pages lies at positions that its sequences have not computed
//     yet (batch.Batcher.Abort leaves them so). Nobody reads a position before it is
//     written by the step that computes it, and no other sequence shares it, as pages
//     are shared once they are committed, which Done does and Abort does not.
//   - The repeated step may have other rows, as sequences come and go meanwhile. A row's
//     result depends on that row alone: kernel's package comment.
func (n *Node) giveUp(down []int) error {
	steps := uint64(0)
	for i, b := range n.batches {
		if b.active {
			n.batcher.Abort(i)
			b.active, b.work = false, nil
			steps++
		}
		b.exchange.Abort()
		for _, place := range down {
			b.exchange.Lost(place)
		}
	}
	n.count()
	n.stats.Update(func(s *node.Stats) { s.StepsGivenUp += steps })
	for _, place := range down {
		q := n.pairs.Pair(place)
		level := slog.LevelWarn
		if errors.Is(q.Cause, m2n.ErrClosed) || errors.Is(q.Cause, pairs.ErrGone) {
			level = slog.LevelInfo // it has left
		}
		n.cfg.Log.Log(context.Background(), level, "an expert node is lost: requests wait for one in its place",
			"peer", q.Lost, "place", place, "steps given up", steps, "reason", q.Cause)
	}
	return n.announce()
}

// announce tells the expert nodes which micro-batches are in flight where that are
// fewer than they know of, so that nobody waits for this node.
func (n *Node) announce() error {
	n.announced = n.inFlight()
	h := route.Header{Kind: route.Status, Placement: n.placement.Version, InFlight: n.announced}
	for place := range n.cfg.Placement.Nodes {
		q := n.pairs.Pair(place)
		if q.State != pairs.Up {
			continue
		}
		if _, err := n.cfg.Endpoint.Post(q.ID, m2n.Message{Header: h.Append(nil)}); err != nil {
			if err := n.unposted(place, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// unposted takes a post that failed: the expert node is lost, or the node is at fault.
func (n *Node) unposted(place int, err error) error {
	var l *m2n.LostError
	switch {
	case errors.As(err, &l):
		return n.drop(place, l.Cause)
	case errors.Is(err, m2n.ErrUnknownPeer): // SetExperts has removed it
		return n.drop(place, pairs.ErrGone)
	}
	return fmt.Errorf("posting to expert node %s: %w", n.pairs.Pair(place).ID, err)
}

// drop ends the pair with an expert node.
func (n *Node) drop(place int, cause error) error {
	return n.apply(n.pairs.Drop(place, cause, time.Now()))
}

// lost takes the report that a pair is lost.
func (n *Node) lost(c m2n.Completion) error {
	cause := c.Err
	var pair *m2n.LostError // names the peer once more
	if errors.As(cause, &pair) {
		cause = pair.Cause
	}
	//nolint:errorlint // itself: SetExperts has removed the pair. A peer that says so has an error around it.
	if cause == m2n.ErrRemoved {
		cause = pairs.ErrGone
	}
	return n.apply(n.pairs.Lost(c.Peer, cause, time.Now()))
}

// tellPairs tells how the node is connected, where that has changed.
func (n *Node) tellPairs() {
	now := make([]pairs.Pair, n.cfg.Placement.Nodes)
	ids := make([]string, len(now))
	for i := range now {
		now[i] = n.pairs.Pair(i)
		ids[i] = now[i].ID
	}
	n.experts.Store(&ids)
	if n.cfg.Pairs != nil {
		n.cfg.Pairs(now)
	}
}

// mend tries again to connect with expert nodes where that is due, and ends the
// requests that have waited for them long enough.
func (n *Node) mend() error {
	if n.pairs.Up() {
		return nil
	}
	n.handled.Add(1) // it does not stand still
	if err := n.apply(n.pairs.Due(time.Now())); err != nil {
		return err
	}
	if err := n.pairs.Expired(time.Now()); err != nil {
		for id := range n.sequences {
			n.batcher.Cancel(id)
			n.reports = append(n.reports, serve.Report{ID: id, Err: unavailable(err)})
		}
		clear(n.sequences)
		n.count()
		n.flush()
	}
	return nil
}

// unavailable ends a request for want of expert nodes.
func unavailable(err error) error {
	return &serve.UnavailableError{Reason: err.Error() + "; the request may be sent again"}
}
