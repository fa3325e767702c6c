package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/serve/attention"
	"github.com/tandem-moe/tandem/serve/attention/pairs"
	"github.com/tandem-moe/tandem/serve/remote"
)

// attend loads the attention weights, waits for the expert nodes, and then works for
// the front end while expert nodes may come and go.
func (m *membership) attend(ctx context.Context) error {
	if err := m.loadAttention(ctx, m.view.MaxModelLen); err != nil {
		return err
	}
	if err := m.loaded(0, m.attention.Digests); err != nil {
		return err
	}
	if err := m.awaitExperts(ctx); err != nil {
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
	links, placed := newLinks(m), newPlaced()
	attention, err := m.newAttention(ep, cache, client, links, placed)
	if err != nil {
		return errors.Join(&localError{err}, closeEndpoint(ep))
	}
	defer attention.Free()
	defer m.follow(attention.Progress)()
	links.stats = attention.Stats
	err = m.work(ctx, attention.Stats,
		func(ctx context.Context) error { return m.serve(ctx, attention, client, links.first) },
		links.run,
		func(ctx context.Context) error { return placed.tell(ctx, m.session) },
		func(ctx context.Context) error { return m.expertsChange(ctx, attention) })
	return errors.Join(err, closeEndpoint(ep))
}

// serve runs the node's loop and its stream to the front end until one of the two ends.
// It opens the stream, and so gets requests, once all expert nodes have been reached.
func (m *membership) serve(ctx context.Context, attention *attention.Node, client *remote.Client, reached <-chan struct{}) error {
	self := m.session.Self
	// The stream ends after the loop, whose last reports say why requests have ended.
	streaming, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g := newGroup(ctx)
	g.run(func(ctx context.Context) error {
		defer end()
		return attention.Run(ctx)
	})
	g.run(func(context.Context) error {
		select {
		case <-reached:
		case <-streaming.Done():
			return streaming.Err()
		}
		return client.Run(streaming, m.session.Client(), m.Control, attention.Offer(self.ID, self.Epoch), attention)
	})
	return g.wait()
}

func (m *membership) newAttention(
	ep *m2n.Endpoint, cache *layer.Cache, client *remote.Client, links *links, placed *placed,
) (*attention.Node, error) {
	cfg, err := m.options.attentionConfig(m.model, m.attention, m.session.Self.ID)
	if err != nil {
		return nil, err
	}
	cfg.Device, cfg.Cache, cfg.Endpoint = m.attends, cache, ep
	cfg.Pairs, cfg.Placed = links.set, placed.note
	cfg.Busy, cfg.Reports = m.pool, m.options.reports(m.session.Self.ID, client.Report)
	return attention.New(cfg)
}

// awaitExperts waits for a view in which the node itself and every expert place is
// ready, and takes the placement from it.
func (m *membership) awaitExperts(ctx context.Context) error {
	for {
		view, err := m.session.Next(ctx)
		if err != nil {
			return err
		}
		experts, reason := readyExperts(view), "its weights are being compared with the cluster's"
		if self, _ := view.Find(m.session.Self.ID); self.Ready {
			if len(experts) == view.ExpertNodes && view.Placement.Version > 0 {
				m.view = view
				m.options.Placement, err = placementOf(m.model.Spec, view, view.Placement)
				return err
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

// expertsChange passes the cluster's ready expert nodes and its placement of the experts
// on to the node, at each change.
func (m *membership) expertsChange(ctx context.Context, attention *attention.Node) error {
	version := m.options.Placement.Version
	for view := m.view; ; {
		if view.Placement.Version > version { // before SetExperts: a new node may hold no older one
			p, err := placementOf(m.model.Spec, view, view.Placement)
			if err != nil {
				return err
			}
			attention.SetPlacement(p)
			version = p.Version
		}
		places := make([]pairs.Member, m.view.ExpertNodes)
		for _, e := range readyExperts(view) {
			places[e.Place] = pairs.Member{ID: e.ID, Addr: e.Addr, Epoch: e.Epoch}
		}
		attention.SetExperts(places)
		var err error
		if view, err = m.session.Next(ctx); err != nil {
			return err
		}
	}
}
