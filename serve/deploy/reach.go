package deploy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/serve/attention/pairs"
	"github.com/tandem-moe/tandem/serve/node"
)

// links reports an attention node's connections with the expert nodes to the front end,
// in the node's status, and in its log. A node that does not reach all expert nodes is
// not ready.
type links struct {
	m     *membership
	stats func() node.Stats
	// first is closed once the node has reached all expert nodes for the first time.
	first   chan struct{}
	reached func() // closes first

	mu     sync.Mutex
	newest []pairs.Pair
	news   chan struct{} // has one element while newest has not been reported

	before  []pairs.Pair        // the pairs reported last
	failing []cluster.Unreached // the failing pairs that the front end was told last
}

func newLinks(m *membership) *links {
	l := &links{m: m, first: make(chan struct{}), news: make(chan struct{}, 1)}
	l.reached = sync.OnceFunc(func() { close(l.first) })
	return l
}

// set takes the state of all pairs from the node's loop. It does not block.
func (l *links) set(now []pairs.Pair) {
	l.mu.Lock()
	l.newest = now
	l.mu.Unlock()
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// run reports new states until ctx ends or the front end is lost.
func (l *links) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.news:
		}
		l.mu.Lock()
		now := l.newest
		l.mu.Unlock()
		if err := l.pass(now); err != nil {
			return err
		}
	}
}

// pass reports the changes since the last call.
func (l *links) pass(now []pairs.Pair) error {
	up, others := true, len(l.before) == 0
	for i, p := range now {
		isNew := len(l.before) == 0 || l.before[i].State != pairs.Up || l.before[i].ID != p.ID
		others = others || isNew
		if up = up && p.State == pairs.Up; p.State == pairs.Up && isNew {
			l.m.Log.Info("expert node reached", "peer", p.ID, "address", p.Addr)
		}
	}
	l.before = now
	switch {
	case !up:
		return l.lacks(now)
	case !others:
		return nil
	}
	l.failing = nil
	if err := l.m.session.Reach(nil); err != nil {
		return err
	}
	l.m.ready(holdsCache(l.m.options.cacheTokens(l.m.model.Spec)), l.stats)
	l.reached()
	return nil
}

// lacks reports expert nodes that are missing or cannot be reached.
func (l *links) lacks(now []pairs.Pair) error {
	self := l.m.session.Self.ID
	var failing []cluster.Unreached
	var view cluster.View
	waits := "waiting for expert nodes"
	for _, p := range now {
		view.Members = append(view.Members, cluster.Member{ID: p.ID, Role: cluster.Expert, Addr: p.Addr})
		switch {
		case p.State == pairs.Up || p.Cause == nil:
		case p.Lost == p.ID:
			failing = append(failing, cluster.Unreached{Attention: self, Expert: p.ID, Reason: reasonOf(p.Cause)})
		default:
			waits = "waiting for an expert node in the place of " + p.Lost + ", which is lost: " + reasonOf(p.Cause)
		}
	}
	if len(failing) > 0 {
		waits = view.DescribeAll(failing)
	}
	l.m.setStatus(Status{State: Joined, ID: self, Reason: waits}, l.stats)
	if slices.Equal(failing, l.failing) {
		return nil
	}
	for _, u := range failing {
		if !slices.Contains(l.failing, u) {
			l.m.Log.Warn("an expert node cannot be reached: this node is not ready", "peer", u.Expert, "reason", view.Describe(u))
		}
	}
	if l.failing = failing; len(failing) == 0 {
		return nil // an empty report would mean that all expert nodes are reached
	}
	return l.m.session.Reach(failing)
}

// reasonOf says in one line why a pair failed. From a network error it keeps only the
// cause: the peer's address is known anyway, and the local port, which differs at each
// attempt, would make equal failures look different.
func reasonOf(err error) string {
	var lost *m2n.LostError
	if errors.As(err, &lost) {
		err = lost.Cause
	}
	var op *net.OpError
	switch {
	case errors.Is(err, m2n.ErrRefused): // the error's own text says why
	case errors.As(err, &op) && op.Timeout() || errors.Is(err, m2n.ErrSilent):
		return "no answer in time"
	case errors.As(err, &op) && op.Op == "remote error":
		return op.Error()
	case errors.As(err, &op):
		var call *os.SyscallError
		if errors.As(op.Err, &call) {
			return call.Err.Error()
		}
		return op.Err.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "whoever listens there closes the connection"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// isolated says which attention nodes do not reach an expert node; nil where all do.
func isolated(v cluster.View, id string) error {
	if pairs := v.UnreachedBy(id); len(pairs) > 0 {
		return errors.New(v.DescribeAll(pairs))
	}
	return nil
}
