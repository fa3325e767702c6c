package deploy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/expert"
)

// expert loads the experts of the node's place and serves them.
func (m *membership) expert(ctx context.Context) error {
	h := &holder{membership: m, views: make(chan cluster.View, 1)}
	wanted, err := h.wanted(m.view)
	if err != nil {
		return err
	}
	m.keepExperts(h.union(wanted))
	for _, p := range wanted {
		if err := h.load(ctx, p); err != nil {
			return wrapLocal(err)
		}
	}
	ep, err := m.endpoint()
	if err != nil {
		return err
	}
	h.node, err = expert.New(expert.Config{
		Spec: m.model.Spec, Device: m.dev, Place: m.session.Self.Place, Wire: m.options.Wire,
		Endpoint: ep, Linger: m.options.Linger, Busy: m.pool, Log: m.Log,
		Reached: func(peer string) { m.Log.Info("an attention node is connected", "peer", peer) },
		Lost:    func(peer string) { m.again(ep, peer) },
	})
	if err != nil {
		return errors.Join(&localError{err}, closeEndpoint(ep))
	}
	defer h.node.Free()
	defer m.follow(h.node.Progress)()
	m.introduce(ep, m.view)
	return errors.Join(h.serve(ctx, ep, wanted), closeEndpoint(ep))
}

// serve waits until the front end has compared the loaded weights, and then serves the
// attention nodes.
func (h *holder) serve(ctx context.Context, ep *m2n.Endpoint, wanted []route.Placement) error {
	for _, p := range wanted {
		if err := h.hold(p); err != nil {
			return err
		}
		if err := h.admitted(ctx, ep, p.Version); err != nil {
			return err
		}
	}
	h.ready(holdsExperts(wanted[0], h.session.Self.Place), h.node.Stats)
	return h.work(ctx, h.node.Stats,
		func(ctx context.Context) error { return wrapLocal(h.node.Run(ctx)) },
		func(ctx context.Context) error { return h.acquaint(ctx, ep) },
		h.follows)
}

// acquaint passes each view's attention nodes on to the endpoint, and reports in the
// node's status which of them do not reach the node.
func (h *holder) acquaint(ctx context.Context, ep *m2n.Endpoint) error {
	for {
		if err := h.meet(ctx, ep); err != nil {
			return err
		}
		h.setIsolated(isolated(h.view, h.session.Self.ID))
		select {
		case <-h.views: // drops an older view that follows has not looked at
		default:
		}
		h.views <- h.view
	}
}

// meet waits for the next view, and passes its attention nodes on to the endpoint.
func (m *membership) meet(ctx context.Context, ep *m2n.Endpoint) error {
	next, err := m.session.Next(ctx)
	if err != nil {
		return err
	}
	m.acquainting.Lock()
	defer m.acquainting.Unlock()
	forget(ep, m.view, next)
	m.introduce(ep, next)
	m.view = next
	return nil
}

// again lets an attention node whose connection is lost connect again, if it is still a
// member.
func (m *membership) again(ep *m2n.Endpoint, peer string) {
	m.acquainting.Lock()
	defer m.acquainting.Unlock()
	if a, ok := m.view.Find(peer); ok {
		ep.RemovePeer(peer)
		if err := ep.SetPeer(peer, a.Addr, a.Epoch); err != nil {
			m.limited.Limited(slog.LevelWarn, "a member cannot be reached", "peer", peer, "address", a.Addr, "error", err)
		}
	}
}

// admitted waits until the front end has found that the weights that the node holds for
// a placement are the cluster's.
func (m *membership) admitted(ctx context.Context, ep *m2n.Endpoint, version uint64) error {
	for {
		if self, _ := m.view.Find(m.session.Self.ID); self.Placement >= version {
			return nil
		}
		if err := m.meet(ctx, ep); err != nil {
			return err
		}
	}
}

// holder makes an expert node hold the experts that the views' placements give its
// place.
type holder struct {
	*membership
	node *expert.Node
	held []route.Placement // the placements that the node serves, in the order of their versions
	// views holds the newest view that follows has not looked at.
	views chan cluster.View
	// failed is the last version that could not be loaded; 0 where there is none.
	failed uint64
}

// wanted returns the placements of a view: the current one, if any, then the next one,
// if any.
func (h *holder) wanted(v cluster.View) (list []route.Placement, err error) {
	for _, p := range []cluster.Placement{v.Placement, v.Next} {
		if p.Version == 0 {
			continue
		}
		placement, err := placementOf(h.model.Spec, v, p)
		if err != nil {
			return nil, err
		}
		list = append(list, placement)
	}
	if len(list) == 0 {
		return nil, errors.New("the front end's view has no placement of the experts")
	}
	return list, nil
}

// union lists the experts of placements at the node's place, by layer.
func (h *holder) union(placements []route.Placement) [][]int {
	all := make([][]int, len(h.model.Spec.Layers))
	for _, p := range placements {
		for l, experts := range p.Experts(h.session.Self.Place) {
			all[l] = append(all[l], experts...)
		}
	}
	return all
}

// load loads the experts of a placement that the node does not have.
func (h *holder) load(ctx context.Context, p route.Placement) error {
	place := h.session.Self.Place
	if err := h.loadExperts(ctx, place, p.Experts(place)); err != nil {
		return fmt.Errorf("placement %d: %w", p.Version, err)
	}
	return nil
}

// hold serves a placement that has been loaded, and tells the front end.
func (h *holder) hold(p route.Placement) error {
	h.node.Hold(p, h.experts)
	h.held = append(h.held, p)
	return h.loaded(p.Version, h.experts.Digests(p.Experts(h.session.Self.Place)))
}

// follows does what new views want, until ctx ends: it loads and serves a new placement,
// and drops placements that no attention node uses.
func (h *holder) follows(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case v := <-h.views:
			if err := h.followOne(ctx, v); err != nil {
				return err
			}
		}
	}
}

func (h *holder) followOne(ctx context.Context, v cluster.View) error {
	wanted, err := h.wanted(v)
	if err != nil {
		return err
	}
	if err := h.giveBack(ctx, v); err != nil {
		return err
	}
	self, _ := v.Find(h.session.Self.ID)
	newest := wanted[len(wanted)-1]
	last := h.held[len(h.held)-1].Version
	if newest.Version <= last || newest.Version == h.failed || self.Placement < last {
		return nil // nothing is new, or the front end has not yet compared the last one's weights
	}
	if err := h.load(ctx, newest); err != nil {
		// The node serves the current placement as before. View.Pending tells the proposer
		// of the new one that this node does not hold it.
		h.failed = newest.Version
		h.Log.Error("a new placement of the experts cannot be held", "node", h.session.Self.ID, "error", err)
		return ctx.Err()
	}
	h.Log.Info("holds a new placement of the experts", "node", h.session.Self.ID,
		"placement", newest.Version, "holds", holdsExperts(newest, h.session.Self.Place))
	return h.hold(newest)
}

// giveBack drops the placements that no attention node uses, or that were given up.
func (h *holder) giveBack(ctx context.Context, v cluster.View) error {
	before := len(h.held)
	for _, p := range slices.Clone(h.held) {
		givenUp := p.Version > v.Placement.Version && p.Version != v.Next.Version
		if !v.Left(p.Version) && !givenUp || len(h.held) == 1 {
			continue
		}
		if err := h.node.Retire(ctx, p.Version, h.experts); err != nil {
			return err
		}
		h.held = slices.DeleteFunc(h.held, func(o route.Placement) bool { return o.Version == p.Version })
		h.Log.Info("a placement of the experts is no longer needed", "node", h.session.Self.ID, "placement", p.Version)
	}
	if len(h.held) < before {
		h.keepExperts(h.union(h.held))
	}
	return nil
}
