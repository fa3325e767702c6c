package deploy

import (
	"context"
	"errors"
	"fmt"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/route"
)

// placementOf reads a placement of a view and holds it against the model.
func placementOf(spec *model.Spec, v cluster.View, p cluster.Placement) (route.Placement, error) {
	placement, err := route.ParsePlacement(p.Version, p.Experts)
	if err == nil {
		err = placement.Fits(spec.Sparse(), spec.Router.Experts, v.ExpertNodes)
	}
	if err != nil {
		return route.Placement{}, fmt.Errorf("the front end's view: %w", err)
	}
	return placement, nil
}

// Place has the cluster go over to another placement of the experts, while it serves: the
// expert nodes load what they miss, the attention nodes split the rows of their next
// steps by it, and the expert nodes give back what only the one before wanted. The
// placement's Version is not looked at: the front end gives it one. Place returns once
// nobody needs the placement before. Where ctx ends sooner, the error says who is
// awaited, and the change goes on, until another call gives it up.
func (c *Control) Place(ctx context.Context, p route.Placement) error {
	if c.options.Wire.Combine == route.Partial {
		return errors.New("a new placement of the experts: " +
			"expert nodes return partial sums, whose bits would change with it")
	}
	version, err := c.propose(p)
	if err != nil {
		return err
	}
	for {
		view, changed := c.Members.View()
		pending := view.Pending(version)
		if pending == "" {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("placement %d: %s: %w", version, pending, context.Cause(ctx))
		}
	}
}

// propose tells the nodes of a placement that is to come.
func (c *Control) propose(p route.Placement) (version uint64, err error) {
	if err := p.Validate(); err != nil {
		return 0, err
	}
	spec := c.judge.model.Spec
	if err := p.Fits(spec.Sparse(), spec.Router.Experts, c.options.Experts); err != nil {
		return 0, err
	}
	return c.Members.Propose(p.Append(nil))
}

// placed is how far an attention node's steps are with placements: the node's loop
// notes it, and it is told to the front end from elsewhere, which may block.
type placed struct{ newest chan uint64 }

func newPlaced() *placed { return &placed{newest: make(chan uint64, 1)} }

// note takes the place of a version that has not been told yet. Versions rise, and one
// goroutine notes them.
func (p *placed) note(version uint64) {
	select {
	case <-p.newest:
	default:
	}
	p.newest <- version
}

// tell tells the front end until ctx ends.
func (p *placed) tell(ctx context.Context, s *cluster.Session) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case version := <-p.newest:
			if err := s.Placed(version); err != nil {
				return err
			}
		}
	}
}
