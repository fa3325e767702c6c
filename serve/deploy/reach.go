package deploy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/serve/attention"
)

// retryPause is how long an attention node waits before it tries again to connect
// with an expert node. A try itself lasts for m2n's DialTimeout where that may help.
const retryPause = 500 * time.Millisecond

// maxRefusals is how often in a row an expert node may refuse a connection until the
// attention node joins anew, under an id that the other has not lost yet.
const maxRefusals = 3

// reach brings up the pairs of an attention node with all expert nodes, before any
// request needs them: a node that cannot be reached is not ready.
type reach struct {
	endpoint *m2n.Endpoint
	experts  []cluster.Member
	hello    m2n.Message // that nothing is in flight
	log      *slog.Logger
	// report passes on the expert nodes that cannot be reached, whenever there are some
	// and they or the reasons have changed.
	report func([]cluster.Unreached) error

	reached  map[string]bool
	failing  map[string]error
	due      map[string]time.Time // of the next try
	refusals map[string]int
}

func newReach(ep *m2n.Endpoint, experts []cluster.Member, hello m2n.Message, log *slog.Logger, report func([]cluster.Unreached) error) *reach {
	return &reach{
		endpoint: ep, experts: experts, hello: hello, log: log, report: report,
		reached: map[string]bool{}, failing: map[string]error{}, due: map[string]time.Time{}, refusals: map[string]int{},
	}
}

// run returns nil once all expert nodes have been reached. Errors: one of them that
// is lost again meanwhile, or has lost this node; the front end; ctx.
func (r *reach) run(ctx context.Context) error {
	for _, e := range r.experts {
		if err := r.try(e); err != nil {
			return err
		}
	}
	for len(r.reached) < len(r.experts) {
		c, err := r.poll(ctx)
		switch {
		case errors.Is(err, errDue):
			err = r.tryDue()
		case err == nil:
			err = r.take(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// try says hello, which connects. An address that this node cannot use is a pair
// that fails, not an error of this node.
func (r *reach) try(e cluster.Member) error {
	if err := r.endpoint.SetPeer(e.ID, e.Addr, e.Epoch); err != nil {
		return r.failed(e, err)
	}
	_, err := r.endpoint.Post(e.ID, r.hello)
	return err
}

// errDue says that it is time to try again.
var errDue = errors.New("a try is due")

// poll waits for a completion, or for the next try.
func (r *reach) poll(ctx context.Context) (m2n.Completion, error) {
	wait := ctx
	if len(r.due) > 0 {
		var first time.Time
		for _, at := range r.due {
			if first.IsZero() || at.Before(first) {
				first = at
			}
		}
		var cancel context.CancelFunc
		wait, cancel = context.WithDeadline(ctx, first)
		defer cancel()
	}
	c, err := r.endpoint.Poll(wait)
	if err != nil && ctx.Err() == nil && wait.Err() != nil {
		return c, errDue
	}
	return c, err
}

// tryDue tries again to reach those whose time has come.
func (r *reach) tryDue() error {
	now := time.Now()
	for _, e := range r.experts {
		at, waits := r.due[e.ID]
		if !waits || at.After(now) {
			continue
		}
		delete(r.due, e.ID)
		r.endpoint.RemovePeer(e.ID) // a pair that failed stays so
		if err := r.try(e); err != nil {
			return err
		}
	}
	return nil
}

// take notes who has been reached, or not. A hello is out only where the two ends
// have shaken hands.
func (r *reach) take(c m2n.Completion) error {
	i := slices.IndexFunc(r.experts, func(e cluster.Member) bool { return e.ID == c.Peer })
	switch {
	case c.Kind == m2n.Received:
		r.endpoint.Release(c)
		return &attention.PeerLostError{Peer: c.Peer, Cause: errors.New("it answers, and was not asked")}
	case i < 0:
		return nil
	case c.Kind == m2n.Sent && c.Err == nil:
		return r.connected(r.experts[i])
	case c.Kind == m2n.Lost:
		return r.failed(r.experts[i], c.Err)
	}
	return nil
}

func (r *reach) connected(e cluster.Member) error {
	r.reached[e.ID] = true
	r.log.Info("expert node reached", "peer", e.ID, "address", e.Addr)
	delete(r.failing, e.ID)
	if len(r.failing) == 0 {
		return nil // to tell of nobody means that all have been reached
	}
	return r.tell()
}

// failed keeps why, and when to try again.
func (r *reach) failed(e cluster.Member, cause error) error {
	if errors.Is(cause, m2n.ErrRefused) {
		r.refusals[e.ID]++
	} else {
		r.refusals[e.ID] = 0
	}
	if r.reached[e.ID] || r.refusals[e.ID] >= maxRefusals {
		return &attention.PeerLostError{Peer: e.ID, Cause: cause}
	}
	r.due[e.ID] = time.Now().Add(retryPause)
	before, known := r.failing[e.ID]
	r.failing[e.ID] = cause
	if known && reasonOf(before) == reasonOf(cause) {
		return nil
	}
	r.log.Warn("an expert node cannot be reached: this node is not ready", "peer", e.ID, "address", e.Addr, "reason", reasonOf(cause))
	return r.tell()
}

// tell passes on who cannot be reached, by place.
func (r *reach) tell() error {
	var failing []cluster.Unreached
	for _, e := range r.experts {
		if cause, ok := r.failing[e.ID]; ok {
			failing = append(failing, cluster.Unreached{Expert: e.ID, Reason: reasonOf(cause)})
		}
	}
	return r.report(failing)
}

// reasonOf says in a line why a pair failed. The addresses are known, and a port of
// this end's, which differs from try to try, would make each failure look like another
// one: of what the system says of a connection only the cause is kept.
func reasonOf(err error) string {
	var lost *m2n.LostError
	if errors.As(err, &lost) {
		err = lost.Cause
	}
	var op *net.OpError
	switch {
	case errors.Is(err, m2n.ErrRefused): // it says why
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

// isolated is an expert node's error where an attention node does not reach it.
func isolated(v cluster.View, id string) error {
	if pairs := v.UnreachedBy(id); len(pairs) > 0 {
		return errors.New(v.DescribeAll(pairs))
	}
	return nil
}
