package deploy

import (
	"context"
	"errors"
	"fmt"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/route"
)

// placementOf parses a placement of a view and checks that it fits the model.
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

// Place moves the cluster to another placement of the experts while it serves: the
// expert nodes load the experts that they miss, the attention nodes split the rows of
// their next steps by the new placement, and the expert nodes free the experts that only
// the old one needs. Place ignores the placement's Version: the front end assigns one.
// It returns once no node needs the old placement. Where ctx ends sooner, the error says
// which nodes are awaited; the change goes on, until another call replaces it.
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

// propose checks a placement and proposes it to the nodes.
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

// placed passes the version of the placement that an attention node's steps use from the
// node's loop, which must not block, to a goroutine that tells the front end.
type placed struct{ newest chan uint64 }

func newPlaced() *placed { return &placed{newest: make(chan uint64, 1)} }

// note replaces a version that the front end has not been told yet. Versions rise, and
// only one goroutine calls note.
func (p *placed) note(version uint64) {
	select {
	case <-p.newest:
	default:
	}
	p.newest <- version
}

// tell tells the front end each noted version, until ctx ends.
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
