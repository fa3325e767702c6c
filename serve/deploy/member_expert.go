package deploy

import (
	"context"
	"errors"
	"log/slog"

	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/expert"
)

// expert loads the place's experts and serves them.
func (m *membership) expert(ctx context.Context) error {
	placement := route.Even(m.model.Spec.Router.Experts, m.view.ExpertNodes)
	self := m.session.Self
	if err := m.loadExperts(ctx, placement, place{self.Place, m.view.ExpertNodes}); err != nil {
		return err
	}
	ep, err := m.endpoint()
	if err != nil {
		return err
	}
	expert, err := expert.New(expert.Config{
		Spec: m.model.Spec, Device: m.dev, Weights: m.experts, Placement: placement, Place: self.Place, Wire: m.options.Wire,
		Endpoint: ep, Linger: m.options.Linger, Busy: m.pool, Log: m.Log,
		Reached: func(peer string) { m.Log.Info("an attention node is connected", "peer", peer) },
		Lost:    func(peer string) { m.again(ep, peer) },
	})
	if err != nil {
		return errors.Join(&localError{err}, closeEndpoint(ep))
	}
	defer expert.Free()
	defer m.follow(expert.Progress)()
	m.introduce(ep, m.view)
	if err := m.admitted(ctx, ep); err != nil {
		return errors.Join(err, closeEndpoint(ep))
	}
	m.ready(holdsExperts(placement, self.Place), expert.Stats)
	err = m.work(ctx, expert.Stats,
		func(ctx context.Context) error { return wrapLocal(expert.Run(ctx)) },
		func(ctx context.Context) error { return m.acquaint(ctx, ep) })
	return errors.Join(err, closeEndpoint(ep))
}

// acquaint keeps an expert node's endpoint informed of who the attention nodes
// are, and the operator of those that do not reach the node.
func (m *membership) acquaint(ctx context.Context, ep *m2n.Endpoint) error {
	for {
		if err := m.meet(ctx, ep); err != nil {
			return err
		}
		m.setIsolated(isolated(m.view, m.session.Self.ID))
	}
}

// meet waits for the next view and tells the endpoint who the attention nodes are.
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

// again lets an attention node whose pair is lost connect anew, where it lives.
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

// admitted tells what experts the node has loaded, and waits until the front end
// has found that they are the cluster's.
func (m *membership) admitted(ctx context.Context, ep *m2n.Endpoint) error {
	if err := m.loaded(m.experts.Digests); err != nil {
		return err
	}
	for {
		if err := m.meet(ctx, ep); err != nil {
			return err
		}
		if self, _ := m.view.Find(m.session.Self.ID); self.Ready {
			return nil
		}
	}
}
