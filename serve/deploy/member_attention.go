package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/attention"
	"github.com/tandem-moe/tandem/serve/node"
	"github.com/tandem-moe/tandem/serve/remote"
)

// attend loads the attention part, waits for the expert nodes, and then works for
// the front end until one of them changes.
func (m *membership) attend(ctx context.Context) error {
	if err := m.loadAttention(ctx, m.view.MaxModelLen); err != nil {
		return err
	}
	if err := m.loaded(m.attention.Digests); err != nil {
		return err
	}
	experts, err := m.awaitExperts(ctx)
	if err != nil {
		return err
	}
	ep, err := m.endpoint()
	if err != nil {
		return err
	}
	cache, err := layer.NewCache(m.dev, m.model.Spec, m.options.pages(m.model.Spec), m.options.PageTokens)
	if err != nil {
		return errors.Join(&localError{err}, closeEndpoint(ep))
	}
	defer cache.Free(m.dev)
	client := remote.NewClient()
	attention, err := m.newAttention(ep, cache, client)
	if err != nil {
		return errors.Join(&localError{err}, closeEndpoint(ep))
	}
	defer attention.Free()
	attention.SetExperts(idsOf(experts))
	defer m.follow(attention.Progress)()
	err = m.work(ctx, attention.Stats,
		func(ctx context.Context) error {
			if err := m.reach(ctx, ep, experts, attention.Stats); err != nil {
				return err
			}
			m.ready(holdsCache(m.options.cacheTokens(m.model.Spec)), attention.Stats)
			return m.serve(ctx, attention, client)
		},
		func(ctx context.Context) error { return m.expertsChange(ctx, idsOf(experts)) })
	return errors.Join(err, closeEndpoint(ep))
}

// reach connects with the expert nodes, and tells the front end, and who asks this
// node, which it cannot reach meanwhile.
func (m *membership) reach(ctx context.Context, ep *m2n.Endpoint, experts []cluster.Member, stats func() node.Stats) error {
	self := m.session.Self.ID
	idle := route.Header{Kind: route.Status, Placement: route.Even(m.model.Spec.Router.Experts, m.view.ExpertNodes).Version}
	r := newReach(ep, experts, m2n.Message{Header: idle.Append(nil)}, m.Log, func(failing []cluster.Unreached) error {
		for i := range failing {
			failing[i].Attention = self
		}
		m.setStatus(Status{State: Joined, ID: self, Reason: m.view.DescribeAll(failing)}, stats)
		return m.session.Reach(failing)
	})
	if err := r.run(ctx); err != nil {
		return err
	}
	return m.session.Reach(nil)
}

// serve works for the front end until one of them ends.
func (m *membership) serve(ctx context.Context, attention *attention.Node, client *remote.Client) error {
	self := m.session.Self
	// The stream outlives the loop, whose last reports say why requests end.
	streaming, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g := newGroup(ctx)
	g.run(func(ctx context.Context) error {
		defer end()
		return attention.Run(ctx)
	})
	g.run(func(context.Context) error {
		return client.Run(streaming, m.session.Client(), m.Control, attention.Offer(self.ID, self.Epoch), attention)
	})
	return g.wait()
}

func (m *membership) newAttention(ep *m2n.Endpoint, cache *layer.Cache, client *remote.Client) (*attention.Node, error) {
	cfg, err := m.options.attentionConfig(m.model, m.attention, m.session.Self.ID)
	if err != nil {
		return nil, err
	}
	cfg.Device, cfg.Cache, cfg.Endpoint = m.attends, cache, ep
	cfg.Placement = route.Even(m.model.Spec.Router.Experts, m.view.ExpertNodes)
	cfg.Busy, cfg.Reports = m.pool, m.options.reports(m.session.Self.ID, client.Report)
	return attention.New(cfg)
}

// awaitExperts waits for a view in which the node itself and every expert place is
// ready, and returns the expert nodes.
func (m *membership) awaitExperts(ctx context.Context) ([]cluster.Member, error) {
	for {
		view, err := m.session.Next(ctx)
		if err != nil {
			return nil, err
		}
		experts, reason := readyExperts(view), "its weights are being compared with the cluster's"
		if self, _ := view.Find(m.session.Self.ID); self.Ready {
			if len(experts) == view.ExpertNodes {
				m.view = view
				return experts, nil
			}
			reason = fmt.Sprintf("%d of %d expert nodes are ready", len(experts), view.ExpertNodes)
		}
		m.setStatus(Status{State: Joined, ID: m.session.Self.ID, Reason: reason}, nil)
	}
}

// readyExperts lists the expert nodes that are ready, by place.
func readyExperts(v cluster.View) []cluster.Member {
	return slices.DeleteFunc(v.Of(cluster.Expert), func(m cluster.Member) bool { return !m.Ready })
}

func idsOf(members []cluster.Member) []string {
	var ids []string
	for _, m := range members {
		ids = append(ids, m.ID)
	}
	return ids
}

// expertsChange waits until the expert nodes are others.
func (m *membership) expertsChange(ctx context.Context, experts []string) error {
	for {
		next, err := m.session.Next(ctx)
		if err != nil {
			return err
		}
		if now := idsOf(readyExperts(next)); !slices.Equal(now, experts) {
			return &changedError{experts, now}
		}
	}
}

// changedError ends the membership of an attention node whose expert nodes are others.
type changedError struct{ before, now []string }

func (e *changedError) Error() string {
	gone := slices.DeleteFunc(slices.Clone(e.before), func(id string) bool { return slices.Contains(e.now, id) })
	if len(gone) == 0 {
		return fmt.Sprintf("the expert nodes changed from %v to %v", e.before, e.now)
	}
	return fmt.Sprintf("expert node %s is no longer a member of the cluster", strings.Join(gone, ", "))
}
