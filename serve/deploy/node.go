package deploy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/remote"
)

// NodeOptions say how one node joins a cluster.
type NodeOptions struct {
	Options
	Role cluster.Role
	// Control is the front end's URL.
	Control string
	// Listen is where peers reach the node, host:port; port 0 takes a free one.
	// Advertise is the host, or host:port, that they are told where it differs.
	Listen, Advertise string
	Version           string
	// Dial reaches other nodes; nil means plain TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Joined is told of each membership, for logs and tests; it may be nil.
	Joined func(cluster.Member)
}

// node is a node's process: what it keeps from one membership to the next.
type node struct {
	NodeOptions
	model  *Model
	pool   *kernel.Pool
	dev    kernel.Device
	client *http.Client

	attention *layer.AttentionWeights
	experts   *layer.ExpertWeights
	place     int // of the experts that are loaded
}

// Pauses between attempts to join.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 2 * time.Second
)

// RunNode joins a cluster and works for it until ctx ends. A node that loses the
// front end or a peer leaves and joins anew. Errors: a front end that refuses
// the node for what it is, and what fails on the node itself.
func RunNode(ctx context.Context, m *Model, o NodeOptions) error {
	if err := o.fill(m.Spec); err != nil {
		return err
	}
	n := &node{NodeOptions: o, model: m, pool: kernel.NewPool(o.Threads), client: cluster.NewHTTPClient(o.PeerTimeout), place: -1}
	defer n.pool.Close()
	defer n.client.CloseIdleConnections()
	var err error
	if n.dev, err = o.Device(string(o.Role), n.pool); err != nil {
		return err
	}
	defer n.dev.Close()
	if o.Role == cluster.Attention {
		n.attention, err = layer.LoadAttention(ctx, n.dev, m.Checkpoint, m.Spec, o.MaxModelLen, o.Progress)
		if err != nil {
			return fmt.Errorf("loading attention: %w", err)
		}
	}
	return n.rejoin(ctx)
}

// rejoin keeps the node a member.
func (n *node) rejoin(ctx context.Context) error {
	pause := firstPause
	for {
		began := time.Now()
		err := n.member(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case permanent(err):
			return err
		}
		if time.Since(began) > maxPause {
			pause = firstPause
		}
		n.Log.Warn("not a member any more, joining again", "pause", pause, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// permanent says whether trying again is in vain.
func permanent(err error) bool {
	var failed *localError
	return connect.CodeOf(err) == connect.CodeInvalidArgument || errors.As(err, &failed)
}

// localError is a failure of the node itself.
type localError struct{ error }

func (e *localError) Unwrap() error { return e.error }

// member is one membership, from joining to the loss of a side.
func (n *node) member(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	listener, err := net.Listen("tcp", n.Listen)
	if err != nil {
		return &localError{fmt.Errorf("listening for peers: %w", err)}
	}
	defer listener.Close()
	addr, err := n.advertised(listener)
	if err != nil {
		return &localError{err}
	}
	session, err := cluster.Join(ctx, n.client, n.Control, n.Role, addr, n.model.Identity(n.Version), n.PeerTimeout)
	if err != nil {
		return err
	}
	defer session.Close()
	n.Log.Info("joined", "node", session.Self.ID, "place", session.Self.Place, "address", addr)
	if n.Joined != nil {
		n.Joined(session.Self)
	}
	if n.Role == cluster.Expert {
		return n.expertMember(ctx, session, listener)
	}
	return n.attentionMember(ctx, session, listener)
}

// advertised is the address that peers are told.
func (n *node) advertised(l net.Listener) (string, error) {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return "", fmt.Errorf("address %s: %w", l.Addr(), err)
	}
	if h, p, err := net.SplitHostPort(n.Advertise); err == nil {
		host, port = h, p
	} else if n.Advertise != "" {
		host = n.Advertise
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return "", fmt.Errorf("listening for peers at %s: say by --advertise under which address they reach this node", l.Addr())
	}
	return "tcp:" + net.JoinHostPort(host, port), nil
}

// endpoint makes the membership's endpoint on the listener.
func (n *node) endpoint(self cluster.Member, micro int, l net.Listener) (*m2n.Endpoint, error) {
	o := n.Options
	o.MicroBatches = micro
	attention, expert := o.slotBytes(n.model.Spec)
	slot := attention
	if n.Role == cluster.Expert {
		slot = expert
	}
	ep, err := newEndpoint(m2n.Config{ID: self.ID, Epoch: self.Epoch, SlotBytes: slot, Dial: n.Dial}, n.dev, o)
	if err != nil {
		return nil, &localError{err}
	}
	if err := ep.Serve(l); err != nil {
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

// expertMember loads the place's experts and serves them.
func (n *node) expertMember(ctx context.Context, session *cluster.Session, l net.Listener) error {
	view, err := session.Next(ctx)
	if err != nil {
		return err
	}
	placement := route.Even(n.model.Spec.Router.Experts, view.ExpertNodes)
	if err := n.loadExperts(ctx, placement, session.Self.Place); err != nil {
		return err
	}
	ep, err := n.endpoint(session.Self, view.MicroBatches, l)
	if err != nil {
		return err
	}
	expert, err := serve.NewExpertNode(serve.ExpertConfig{
		Spec: n.model.Spec, Device: n.dev, Weights: n.experts, Placement: placement, Place: session.Self.Place,
		Endpoint: ep, Linger: n.Linger, Busy: n.pool, Log: n.Log,
	})
	if err != nil {
		return errors.Join(&localError{err}, closeEndpoint(ep))
	}
	if err := introduce(ep, view, cluster.Attention); err != nil {
		return errors.Join(err, closeEndpoint(ep))
	}
	g := newGroup(ctx)
	g.run(func(ctx context.Context) error { return wrapLocal(expert.Run(ctx)) })
	g.run(func(ctx context.Context) error {
		for known := view; ; {
			next, err := session.Next(ctx)
			if err != nil {
				return err
			}
			forget(ep, known, next, cluster.Attention)
			if err := introduce(ep, next, cluster.Attention); err != nil {
				return err
			}
			known = next
		}
	})
	if err := session.Ready(); err != nil {
		g.cancel(err)
	}
	err = errors.Join(g.wait(), closeEndpoint(ep))
	expert.Free()
	return err
}

func wrapLocal(err error) error {
	if err == nil {
		return nil
	}
	return &localError{err}
}

// loadExperts loads a place's experts, unless they are there.
func (n *node) loadExperts(ctx context.Context, p route.Placement, place int) error {
	if n.place == place {
		return nil
	}
	var err error
	n.place = -1
	n.experts, err = layer.LoadExperts(ctx, n.dev, n.model.Checkpoint, n.model.Spec, p.Experts(place), n.Progress)
	if err != nil {
		return &localError{fmt.Errorf("loading the experts of place %d: %w", place, err)}
	}
	n.place = place
	return nil
}

// introduce names the members of a role to an endpoint.
func introduce(ep *m2n.Endpoint, v cluster.View, role cluster.Role) error {
	for _, m := range v.Of(role) {
		if err := ep.SetPeer(m.ID, m.Addr, m.Epoch); err != nil {
			return err
		}
	}
	return nil
}

// forget removes members that are gone.
func forget(ep *m2n.Endpoint, before, now cluster.View, role cluster.Role) {
	for _, m := range before.Of(role) {
		if _, ok := now.Find(m.ID); !ok {
			ep.RemovePeer(m.ID)
		}
	}
}

// attentionMember waits for the expert nodes, and then works for the front end
// until one of them changes.
func (n *node) attentionMember(ctx context.Context, session *cluster.Session, l net.Listener) error {
	if err := session.Ready(); err != nil {
		return err
	}
	view, err := n.awaitExperts(ctx, session)
	if err != nil {
		return err
	}
	ep, err := n.endpoint(session.Self, view.MicroBatches, l)
	if err != nil {
		return err
	}
	err = n.attend(ctx, session, view, ep)
	return err
}

// awaitExperts waits for a view in which every expert place is ready.
func (n *node) awaitExperts(ctx context.Context, session *cluster.Session) (cluster.View, error) {
	for {
		view, err := session.Next(ctx)
		if err != nil || len(readyExperts(view)) == view.ExpertNodes {
			return view, err
		}
	}
}

// readyExperts lists the expert nodes that are ready, by place.
func readyExperts(v cluster.View) []string {
	var ids []string
	for _, m := range v.Of(cluster.Expert) {
		if m.Ready {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// attend runs the attention node of a membership.
func (n *node) attend(ctx context.Context, session *cluster.Session, view cluster.View, ep *m2n.Endpoint) error {
	work := remote.NewClient()
	cache, err := layer.NewCache(n.dev, n.model.Spec, n.pages(n.model.Spec), n.PageTokens)
	if err != nil {
		return errors.Join(&localError{err}, closeEndpoint(ep))
	}
	defer cache.Free(n.dev)
	attention, err := n.newAttention(view, ep, cache, work)
	if err != nil {
		return errors.Join(&localError{err}, closeEndpoint(ep))
	}
	defer attention.Free()
	experts := readyExperts(view)
	attention.SetExperts(experts)
	if err := introduce(ep, view, cluster.Expert); err != nil {
		return errors.Join(err, closeEndpoint(ep))
	}
	g := newGroup(ctx)
	g.run(attention.Run)
	g.run(func(ctx context.Context) error {
		return work.Run(ctx, n.client, n.Control, attention.Offer(session.Self.ID, session.Self.Epoch), attention)
	})
	g.run(func(ctx context.Context) error {
		for {
			next, err := session.Next(ctx)
			if err != nil {
				return err
			}
			if now := readyExperts(next); !slices.Equal(now, experts) {
				return fmt.Errorf("the expert nodes changed from %v to %v", experts, now)
			}
		}
	})
	return errors.Join(g.wait(), closeEndpoint(ep))
}

func (n *node) newAttention(view cluster.View, ep *m2n.Endpoint, cache *layer.Cache, work *remote.Client) (*serve.AttentionNode, error) {
	o := n.Options
	o.MicroBatches = view.MicroBatches
	cfg := o.attentionConfig(n.model, "attention")
	cfg.Device, cfg.Weights, cfg.Cache, cfg.Endpoint = n.dev, n.attention, cache, ep
	cfg.Placement = route.Even(n.model.Spec.Router.Experts, view.ExpertNodes)
	cfg.Busy, cfg.Reports = n.pool, work.Report
	return serve.NewAttentionNode(cfg)
}
