package deploy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/certs"
	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/m2n/ucx"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/remote"
)

// membership is a node from joining to the loss of a side.
type membership struct {
	*Node
	options  Options // with the cluster's settings
	client   *http.Client
	session  *cluster.Session
	view     cluster.View
	listener net.Listener
	// stopped ends when the node is told to stop, and the membership with it, until
	// outlive has been called: then there may be requests to finish.
	stopped context.Context
	outlive func() bool
}

// member is one membership, which ends with an error. Its connection with the front
// end is its own.
func (n *Node) member(stopped context.Context, peers *peerSocket) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(stopped))
	defer cancel()
	m := &membership{
		Node: n, client: cluster.NewHTTPClient(n.PeerTimeout, n.TLS.TLS()),
		stopped: stopped, outlive: context.AfterFunc(stopped, cancel),
	}
	defer m.outlive()
	defer m.client.CloseIdleConnections()
	var err error
	if m.listener, err = peers.lend(); err != nil {
		return err
	}
	defer m.listener.Close()
	if err := m.join(ctx); err != nil {
		return err
	}
	defer m.session.Close()
	m.session.Tell(n.progress)
	if m.view, err = m.session.Next(ctx); err != nil {
		return err
	}
	if err := m.fill(); err != nil {
		return &localError{err}
	}
	if n.Role == cluster.Expert {
		return m.expert(ctx)
	}
	return m.attend(ctx)
}

// join makes the node a member.
func (m *membership) join(ctx context.Context) error {
	addr, err := m.advertised(ctx)
	if err != nil {
		return err
	}
	if err := m.TLS.Valid(time.Now()); err != nil {
		return &localError{err}
	}
	if m.session, err = cluster.Join(ctx, m.client, m.Control, m.hello(addr), m.PeerTimeout); err != nil {
		return &joinError{asLocal(err)}
	}
	self := m.session.Self
	m.setStatus(Status{State: Joined, ID: self.ID}, nil)
	m.Log.Info("joined", "node", self.ID, "place", self.Place, "address", addr)
	return nil
}

// asLocal makes an error of joining a permanent one where the two ends are secured
// otherwise: neither's files nor flags change by waiting.
func asLocal(err error) error {
	if certs.Refused(err) || errors.Is(err, cluster.ErrPlain) || errors.Is(err, http.ErrSchemeMismatch) {
		return &localError{err}
	}
	return err
}

// hello is what the node says of itself. It asks for the place whose experts it
// has: to load others takes long.
func (n *Node) hello(addr string) cluster.Hello {
	h := cluster.Hello{
		Role: n.Role, Addr: addr, Identity: n.model.Identity(n.Version), Place: cluster.AnyPlace,
		Wire: n.WantWire, Combine: n.WantCombine,
	}
	if n.experts != nil {
		h.Place = n.place.index
	}
	return h
}

// fill completes the options by what the front end has decided.
func (m *membership) fill() error {
	m.options = m.NodeOptions.Options
	m.options.Experts, m.options.MicroBatches = m.view.ExpertNodes, m.view.MicroBatches
	m.options.MaxModelLen, m.options.MaxBatchedTokens = m.view.MaxModelLen, m.view.MaxBatchedTokens
	var err error
	if m.options.Wire, err = route.ParseWire(m.view.Wire, m.view.Combine); err != nil {
		return fmt.Errorf("with the cluster's settings: %w", err)
	}
	if err := m.options.fill(m.model.Spec); err != nil {
		return fmt.Errorf("with the cluster's settings: %w", err)
	}
	return m.fillCache(&m.options)
}

// advertised is the address that peers are told. It is looked at for each membership,
// as the front end's name may mean another host.
func (m *membership) advertised(ctx context.Context) (string, error) {
	p, err := pathTo(ctx, m.Control)
	if err != nil {
		return "", &joinError{err}
	}
	at, err := m.at.advertised(m.listener.Addr(), p)
	if err != nil {
		return "", &localError{err}
	}
	return m.transport() + ":" + at, nil
}

// transport is how peers are to reach the node.
func (n *Node) transport() string {
	switch {
	case n.Transport != "":
		return n.Transport
	case n.Dial != nil: // a network of its own
		return "tcp"
	}
	return "shm+tcp"
}

// fabric opens UCX, where the node is to use it; nil where not.
func (n *Node) fabric() (m2n.Fabric, error) {
	if !n.wantsUCX() {
		return nil, nil
	}
	return ucx.Open(ucx.Config{})
}

func (o *NodeOptions) wantsUCX() bool { return slices.Contains(strings.Split(o.Transport, "+"), "ucx") }

// endpoint makes the membership's endpoint on the listener.
func (m *membership) endpoint() (*m2n.Endpoint, error) {
	attention, expert := m.options.slotBytes(m.model.Spec)
	slot := attention
	if m.Role == cluster.Expert {
		slot = expert
	}
	self := m.session.Self
	fabric, err := m.fabric()
	if err != nil {
		return nil, &localError{err}
	}
	ep, err := newEndpoint(m2n.Config{ID: self.ID, Epoch: self.Epoch, SlotBytes: slot, Dial: m.Dial, Fabric: fabric}, m.dev, m.options)
	if err != nil {
		return nil, &localError{err}
	}
	if err := ep.Serve(m.listener); err != nil {
		return nil, errors.Join(&localError{err}, closeEndpoint(ep))
	}
	return ep, nil
}

func closeEndpoint(ep *m2n.Endpoint) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return leave(ctx, ep)
}

// group runs the parts of a membership: the first that ends, ends all.
type group struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	running sync.WaitGroup
}

func newGroup(ctx context.Context) *group {
	g := &group{}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	return g
}

func (g *group) run(f func(ctx context.Context) error) {
	g.running.Go(func() {
		err := f(g.ctx)
		if err == nil {
			err = context.Canceled
		}
		g.cancel(err)
	})
}

// wait returns what ended the group.
func (g *group) wait() error {
	g.running.Wait()
	return context.Cause(g.ctx)
}

// ready notes that the node does its part.
func (m *membership) ready(holds string, stats func() serve.NodeStats) {
	m.setStatus(Status{State: Ready, ID: m.session.Self.ID}, stats)
	m.Log.Info("ready", "node", m.session.Self.ID, "holds", holds)
}

// work lets the parts run until one of them ends, or the node is told to stop and is
// needed no more.
func (m *membership) work(ctx context.Context, stats func() serve.NodeStats, parts ...func(context.Context) error) error {
	g := newGroup(ctx)
	for _, part := range parts {
		g.run(part)
	}
	g.run(func(ctx context.Context) error { return m.drain(ctx, stats) })
	return g.wait()
}

// drain waits until the node is told to stop, says so, and waits until the front
// end ends the session, or for the grace.
func (m *membership) drain(ctx context.Context, stats func() serve.NodeStats) error {
	m.outlive()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-m.stopped.Done():
	}
	self := m.session.Self
	m.setStatus(Status{State: Draining, ID: self.ID}, stats)
	m.Log.Info("draining: stays until no request needs the node", "node", self.ID, "grace", m.Grace)
	if err := m.session.Drain(); err != nil {
		return fmt.Errorf("telling the front end: %w", err)
	}
	grace := time.NewTimer(m.Grace)
	defer grace.Stop()
	select {
	case <-ctx.Done():
		m.Log.Info("drained", "node", self.ID)
		return ctx.Err()
	case <-grace.C:
		m.Log.Warn("the grace is over, requests that still run end with an error", "node", self.ID, "grace", m.Grace)
		return fmt.Errorf("the grace of %v is over", m.Grace)
	}
}

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
	expert, err := serve.NewExpertNode(serve.ExpertConfig{
		Spec: m.model.Spec, Device: m.dev, Weights: m.experts, Placement: placement, Place: self.Place, Wire: m.options.Wire,
		Endpoint: ep, Linger: m.options.Linger, Busy: m.pool, Log: m.Log,
		Reached: func(peer string) { m.Log.Info("an attention node is connected", "peer", peer) },
	})
	if err != nil {
		return errors.Join(&localError{err}, closeEndpoint(ep))
	}
	defer expert.Free()
	defer m.follow(expert.Progress)()
	m.introduce(ep, m.view, cluster.Attention)
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
	forget(ep, m.view, next, cluster.Attention)
	m.introduce(ep, next, cluster.Attention)
	m.view = next
	return nil
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

// introduce names the members of a role to an endpoint. One whose address the node
// cannot use is no reason to leave: others can be reached.
func (m *membership) introduce(ep *m2n.Endpoint, v cluster.View, role cluster.Role) {
	for _, peer := range v.Of(role) {
		if err := ep.SetPeer(peer.ID, peer.Addr, peer.Epoch); err != nil {
			m.Log.Warn("a member cannot be reached", "peer", peer.ID, "address", peer.Addr, "error", err)
		}
	}
}

// forget removes members that are gone.
func forget(ep *m2n.Endpoint, before, now cluster.View, role cluster.Role) {
	for _, m := range before.Of(role) {
		if _, ok := now.Find(m.ID); !ok {
			ep.RemovePeer(m.ID)
		}
	}
}

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
func (m *membership) reach(ctx context.Context, ep *m2n.Endpoint, experts []cluster.Member, stats func() serve.NodeStats) error {
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
func (m *membership) serve(ctx context.Context, attention *serve.AttentionNode, client *remote.Client) error {
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

func (m *membership) newAttention(ep *m2n.Endpoint, cache *layer.Cache, client *remote.Client) (*serve.AttentionNode, error) {
	cfg, err := m.options.attentionConfig(m.model, m.attention, m.session.Self.ID)
	if err != nil {
		return nil, err
	}
	cfg.Device, cfg.Cache, cfg.Endpoint = m.dev, cache, ep
	cfg.Placement = route.Even(m.model.Spec.Router.Experts, m.view.ExpertNodes)
	cfg.Busy, cfg.Reports = m.pool, m.options.reports(m.session.Self.ID, client.Report)
	return serve.NewAttentionNode(cfg)
}

// awaitExperts waits for a view in which every expert place is ready, and returns
// who is there.
func (m *membership) awaitExperts(ctx context.Context) ([]cluster.Member, error) {
	for {
		view, err := m.session.Next(ctx)
		if err != nil {
			return nil, err
		}
		experts := readyExperts(view)
		if len(experts) == view.ExpertNodes {
			m.view = view
			return experts, nil
		}
		m.setStatus(Status{
			State: Joined, ID: m.session.Self.ID,
			Reason: fmt.Sprintf("%d of %d expert nodes are ready", len(experts), view.ExpertNodes),
		}, nil)
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
