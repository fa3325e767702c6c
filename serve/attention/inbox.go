package attention

import (
	"errors"
	"runtime"

	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
)

// command asks the loop to do something between two steps: to begin a sequence, to
// cancel one, or to call a function.
type command struct {
	submit *serve.Request
	cancel uint64
	do     func() error
}

// Submit hands over a request.
func (n *Node) Submit(r serve.Request) { n.tell(command{submit: &r}) }

// Cancel ends a request if it still runs.
func (n *Node) Cancel(id uint64) { n.tell(command{cancel: id}) }

func (n *Node) tell(c command) {
	n.mu.Lock()
	n.inbox = append(n.inbox, c)
	n.mu.Unlock()
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// submitted is the number of requests that the loop has not taken yet.
func (n *Node) submitted() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, c := range n.inbox {
		if c.submit != nil {
			count++
		}
	}
	return count
}

// accept carries out the commands that have come. Its errors are failures of the node
// itself.
func (n *Node) accept() error {
	n.mu.Lock()
	commands := n.inbox
	n.inbox = nil
	n.mu.Unlock()
	var err error
	for _, c := range commands {
		switch {
		case c.do != nil:
			err = errors.Join(err, c.do())
		case c.submit == nil:
			n.cancelled(c.cancel)
		default:
			if err := n.begin(*c.submit); err != nil {
				n.reports = append(n.reports, serve.Report{ID: c.submit.ID, Err: err})
			}
		}
	}
	n.leaveBehind()
	n.flush()
	return err
}

// SetPlacement makes each micro-batch split its rows by another placement from its next
// step on. The placement must be of the same number of nodes, which hold its experts
// already.
func (n *Node) SetPlacement(p route.Placement) {
	n.tell(command{do: func() error {
		n.placement = p
		return nil
	}})
}

// leaveBehind reports which placements no step uses any more.
func (n *Node) leaveBehind() {
	oldest := n.placement.Version
	for _, b := range n.batches {
		if b.active {
			oldest = min(oldest, b.exchange.placement)
		}
	}
	if oldest > n.placed && n.cfg.Placed != nil {
		n.placed = oldest
		n.cfg.Placed(oldest)
	}
}

// flush delivers the collected reports, and yields the processor to the goroutines that
// wait for them: where nodes and their helper threads keep all processors busy, a client
// would otherwise get its token at the end of a time slice, ten milliseconds later.
func (n *Node) flush() {
	if len(n.reports) == 0 {
		return
	}
	n.cfg.Reports(n.reports)
	n.reports = nil
	runtime.Gosched()
}
