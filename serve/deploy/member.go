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
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/m2n/ucx"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/node"
)

// membership is one membership of a node: from joining until it leaves, or the node or
// the front end is lost.
type membership struct {
	*Node
	options Options // the node's options, with the cluster's settings filled in
	client  *http.Client
	session *cluster.Session
	view    cluster.View
	// acquainting guards, on an expert node, view and the attention nodes that the
	// endpoint knows.
	acquainting sync.Mutex
	listener    net.Listener
	// stopped ends when the node is told to stop. That ends the membership too, unless
	// outlive has been called before: from then on there may be requests to finish.
	stopped context.Context
	outlive func() bool
}

// member runs one membership and returns the error that ended it. Each membership makes
// a new connection to the front end.
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

// asLocal makes an error of joining permanent where node and front end disagree about
// TLS: waiting changes neither their certificates nor their flags.
func asLocal(err error) error {
	if certs.Refused(err) || errors.Is(err, cluster.ErrPlain) || errors.Is(err, http.ErrSchemeMismatch) {
		return &localError{err}
	}
	return err
}

// hello makes the node's hello. It asks for the place whose experts the node has, since
// loading others takes long.
func (n *Node) hello(addr string) cluster.Hello {
	h := cluster.Hello{
		Role: n.Role, Addr: addr, Identity: n.model.Identity(n.Version), Place: cluster.AnyPlace,
		Wire: n.WantWire, Combine: n.WantCombine,
	}
	if n.experts != nil {
		h.Place = n.place
	}
	return h
}

// fill makes the membership's options: the node's, with the front end's settings.
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

// advertised is the address that peers are told. Each membership computes it anew, since
// the front end's name may have come to mean another host.
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

// transport names the transports by which peers reach the node.
func (n *Node) transport() string {
	switch {
	case n.Transport != "":
		return n.Transport
	case n.Dial != nil: // the caller's own network, which has no shared memory
		return "tcp"
	}
	return "shm+tcp"
}

// fabric opens UCX if the node's transport has it; else it returns nil.
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

// ready sets the node's status to Ready and logs it.
func (m *membership) ready(holds string, stats func() node.Stats) {
	m.setStatus(Status{State: Ready, ID: m.session.Self.ID}, stats)
	m.Log.Info("ready", "node", m.session.Self.ID, "holds", holds)
}

// work runs the parts until one of them ends, or the node is told to stop and no request
// needs it.
func (m *membership) work(ctx context.Context, stats func() node.Stats, parts ...func(context.Context) error) error {
	g := newGroup(ctx)
	for _, part := range parts {
		g.run(part)
	}
	g.run(func(ctx context.Context) error { return m.drain(ctx, stats) })
	return g.wait()
}

// drain waits until the node is told to stop, tells the front end, and waits until the
// front end ends the session, or until the grace is over.
func (m *membership) drain(ctx context.Context, stats func() node.Stats) error {
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
		fate := "they end with an error"
		if m.Role == cluster.Expert {
			fate = "they wait for another expert node"
		}
		m.Log.Warn("the grace is over, and requests still run", "node", self.ID, "grace", m.Grace, "requests", fate)
		return fmt.Errorf("the grace of %v is over", m.Grace)
	}
}

// introduce adds a view's attention nodes to an expert node's endpoint. It only logs an
// address that the endpoint refuses: the node can serve the other attention nodes.
func (m *membership) introduce(ep *m2n.Endpoint, v cluster.View) {
	for _, peer := range v.Of(cluster.Attention) {
		if err := ep.SetPeer(peer.ID, peer.Addr, peer.Epoch); err != nil {
			m.Log.Warn("a member cannot be reached", "peer", peer.ID, "address", peer.Addr, "error", err)
		}
	}
}

// forget removes from the endpoint the attention nodes that have left.
func forget(ep *m2n.Endpoint, before, now cluster.View) {
	for _, m := range before.Of(cluster.Attention) {
		if _, ok := now.Find(m.ID); !ok {
			ep.RemovePeer(m.ID)
		}
	}
}
