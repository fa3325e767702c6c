package deploy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/attention"
	"github.com/tandem-moe/tandem/serve/attention/pairs"
	"github.com/tandem-moe/tandem/serve/expert"
	"github.com/tandem-moe/tandem/serve/frontend"
	"github.com/tandem-moe/tandem/serve/node"
)

// Weights are a model's loaded weights. Deployments of one process may share them.
type Weights struct {
	attention *layer.AttentionWeights
	positions int
	experts   *layer.ExpertWeights // all of them, whatever the placement
}

// Local is a whole deployment in one process: its Engine serves until Close.
type Local struct {
	Engine *frontend.FrontEnd

	options   Options
	model     *Model
	pool      *kernel.Pool
	attention []*attentionNode
	experts   []*expertNode
	loops     [2]loops // of attention nodes, of expert nodes
	mu        sync.Mutex
	failed    error
}

// loops are the running loops of the nodes of one role.
type loops struct {
	cancel  context.CancelCauseFunc
	running sync.WaitGroup
}

// start runs a loop until stop is called.
func (p *loops) start(ctx context.Context, run func(context.Context) error, failed func(error)) {
	p.running.Go(func() { failed(run(ctx)) })
}

// stop ends the loops.
func (p *loops) stop() {
	if p.cancel != nil {
		p.cancel(nil)
	}
	p.running.Wait()
}

// attentionNode is an attention node with its device, KV cache and endpoint.
type attentionNode struct {
	name string
	*attention.Node
	dev   kernel.Device
	cache *layer.Cache
	ep    *m2n.Endpoint
	addr  string
}

// expertNode is an expert node with its device and endpoint.
type expertNode struct {
	name string
	*expert.Node
	dev  kernel.ExpertDevice
	ep   *m2n.Endpoint
	addr string
}

// StartLocal loads a model and starts its nodes. If w is not nil, its weights are used
// instead of loading them; they must be of the same model. The caller closes the
// deployment.
func StartLocal(ctx context.Context, m *Model, o Options, w *Weights) (*Local, error) {
	if err := o.fill(m.Spec); err != nil {
		return nil, err
	}
	if err := o.fillPlacement(m.Spec); err != nil {
		return nil, err
	}
	toLoad := m.Checkpoint.Bytes()
	if w != nil {
		toLoad = 0
	}
	if err := o.fillCache(m.Spec, toLoad); err != nil {
		return nil, err
	}
	l := &Local{options: o, model: m, pool: kernel.NewPool(o.Threads)}
	if err := l.start(ctx, w); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Local) start(ctx context.Context, w *Weights) error {
	if w == nil {
		var err error
		if w, err = LoadWeights(ctx, l.model, l.options, l.pool); err != nil {
			return err
		}
	}
	if err := w.record(l.model); err != nil {
		return err
	}
	network := m2n.NewNetwork()
	for i := range l.options.Experts {
		if err := l.newExpert(ctx, network, i, w.experts); err != nil {
			return fmt.Errorf("node expert-%d: %w", i, err)
		}
	}
	l.Engine = frontend.New(frontend.Config{
		Vocabulary: l.model.Spec.Vocabulary, MaxModelLen: l.options.MaxModelLen,
		MaxWaiting: l.options.MaxWaiting, Missing: l.missing,
	})
	for i := range l.options.Attention {
		if err := l.newAttention(ctx, network, i, w.attention); err != nil {
			return fmt.Errorf("node attention-%d: %w", i, err)
		}
	}
	if err := l.introduce(); err != nil {
		return err
	}
	return l.run()
}

// LoadWeights loads all weights of a model for the deployments of one process.
func LoadWeights(ctx context.Context, m *Model, o Options, pool *kernel.Pool) (*Weights, error) {
	if err := o.fill(m.Spec); err != nil {
		return nil, err
	}
	dev, err := kernel.NewCPU(kernel.CPUOptions{Pool: pool})
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	if err := m.check(o.Log, attentionRole, m.Spec.AllExperts()); err != nil {
		return nil, err
	}
	progress := sumProgress(o.Progress, m.Checkpoint.Bytes())
	w := &Weights{positions: o.MaxModelLen}
	if w.attention, err = layer.LoadAttention(ctx, dev, m.Checkpoint, m.Spec, o.MaxModelLen, progress()); err != nil {
		return nil, fmt.Errorf("loading attention: %w", err)
	}
	untied(o.Log, w.attention)
	if w.experts, err = layer.LoadExperts(ctx, dev, m.Checkpoint, m.Spec, m.Spec.AllExperts().Experts, progress()); err != nil {
		w.attention.Free(dev)
		return nil, fmt.Errorf("loading experts: %w", err)
	}
	return w, nil
}

// record adds the weights' digests to the model's ledger.
func (w *Weights) record(m *Model) error {
	if err := m.record("attention", attentionRole, w.attention.Digests); err != nil {
		return err
	}
	all := m.Spec.AllExperts()
	return m.record("experts", all, w.experts.Digests(all.Experts))
}

// sumProgress is for several loads, one after the other, of total bytes together. Each
// call of its result makes the progress function of the next load, which reports the
// bytes of all loads so far.
func sumProgress(report func(done, total int64), total int64) func() layer.Progress {
	if report == nil {
		return func() layer.Progress { return nil }
	}
	var before, last int64
	return func() layer.Progress {
		before += last
		last = 0
		base := before
		return func(done, _ int64) {
			last = done
			report(base+done, total)
		}
	}
}

// newExpert adds an expert node. After an error, Close frees what was made before.
func (l *Local) newExpert(ctx context.Context, network *m2n.Network, place int, w *layer.ExpertWeights) error {
	n := &expertNode{name: fmt.Sprintf("expert-%d", place)}
	l.experts = append(l.experts, n)
	dev, err := l.options.Device(n.name, l.pool)
	if err != nil {
		return err
	}
	n.dev = dev
	_, slot := l.options.slotBytes(l.model.Spec)
	if n.ep, n.addr, err = l.listen(ctx, network, n.name, n.dev, slot); err != nil {
		return err
	}
	n.Node, err = expert.New(expert.Config{
		Spec: l.model.Spec, Device: n.dev, Place: place, Wire: l.options.Wire,
		Endpoint: n.ep, Linger: l.options.Linger, Busy: l.pool, Log: l.options.Log.With("node", n.name),
		Lost: func(peer string) { l.acquaint(n, peer) },
	})
	if err != nil {
		return err
	}
	n.Hold(l.options.Placement, w)
	return nil
}

// newAttention adds an attention node. After an error, Close frees what was made before.
func (l *Local) newAttention(ctx context.Context, network *m2n.Network, i int, w *layer.AttentionWeights) error {
	n := &attentionNode{name: fmt.Sprintf("attention-%d", i)}
	l.attention = append(l.attention, n)
	dev, err := l.options.Device(n.name, l.pool)
	if err != nil {
		return err
	}
	if n.dev, err = attentionDevice(dev); err != nil {
		return errors.Join(err, dev.Close())
	}
	if n.cache, err = layer.NewCache(n.dev, l.model.Spec, l.options.pages(l.model.Spec), l.options.PageTokens); err != nil {
		return err
	}
	slot, _ := l.options.slotBytes(l.model.Spec)
	if n.ep, n.addr, err = l.listen(ctx, network, n.name, n.dev, slot); err != nil {
		return err
	}
	cfg, err := l.options.attentionConfig(l.model, w, n.name)
	if err != nil {
		return err
	}
	cfg.Device, cfg.Cache, cfg.Endpoint = n.dev, n.cache, n.ep
	cfg.Busy = l.pool
	cfg.Reports = l.options.reports(n.name, func(r []serve.Report) { l.fail(l.Engine.Deliver(n.name, r)) })
	n.Node, err = attention.New(cfg)
	return err
}

// attentionConfig returns the part of an attention node's configuration that follows
// from model and options.
func (o *Options) attentionConfig(m *Model, w *layer.AttentionWeights, name string) (attention.Config, error) {
	hash, err := m.pagesHash(w)
	return attention.Config{
		Spec: m.Spec, Weights: w, ModelHash: hash, Numerics: o.Numerics(), Placement: o.Placement, Wire: o.Wire,
		MicroBatches: o.MicroBatches, MaxNumSeqs: o.MaxNumSeqs, MaxBatchedTokens: o.MaxBatchedTokens,
		MaxModelLen: o.MaxModelLen, MaxWaiting: o.MaxWaiting, ChunkTokens: o.ChunkTokens, NoPrefixReuse: o.NoPrefixReuse, Preempt: o.Preempt,
		ExpertWait: o.ExpertWait, Lose: o.Lose,
		Log: o.Log.With("node", name),
	}, err
}

// reports returns a function that passes an attention node's reports to Observe, if
// set, and then to deliver.
func (o *Options) reports(node string, deliver func([]serve.Report)) func([]serve.Report) {
	if o.Observe == nil {
		return deliver
	}
	return func(r []serve.Report) {
		o.Observe(node, r)
		deliver(r)
	}
}

// listen makes a node's endpoint on the deployment's transport.
func (l *Local) listen(ctx context.Context, network *m2n.Network, name string, dev kernel.Memory, slot int) (*m2n.Endpoint, string, error) {
	ep, err := newEndpoint(m2n.Config{ID: name, Epoch: 1, Network: network, SlotBytes: slot}, dev, l.options)
	if err != nil {
		return nil, "", err
	}
	addr := "inproc:" + name
	if t := l.options.Transport; t != "" && t != "inproc" {
		addr = l.options.Transport + ":127.0.0.1:0"
	}
	addr, err = ep.Listen(ctx, addr)
	return ep, addr, err
}

// newEndpoint makes an endpoint that receives into the device's memory.
func newEndpoint(cfg m2n.Config, dev kernel.Memory, o Options) (*m2n.Endpoint, error) {
	props := dev.Properties()
	adopts := props.Capabilities&kernel.AdoptsMemory != 0
	if o.Transport == "shm" && !adopts {
		return nil, fmt.Errorf("transport shm: the device %q cannot adopt shared memory; use shm+tcp or tcp", props.Name)
	}
	cfg.Slots = o.MicroBatches + 1 // one for each micro-batch's message, one for a status
	cfg.PeerTimeout, cfg.TLS = o.PeerTimeout, o.TLS.TLS()
	cfg.Alloc = func(n int) (*m2n.Region, error) {
		b, err := dev.Alloc(kernel.HostVisible, kernel.F32, (n+3)/4)
		if err != nil {
			return nil, err
		}
		return &m2n.Region{Bytes: b.Bytes()[:n], User: b}, nil
	}
	if adopts { // else the endpoint shares no memory
		cfg.Adopt = func(mem []byte) (*m2n.Region, error) {
			b, err := dev.Adopt(kernel.F32, mem)
			return &m2n.Region{Bytes: mem, User: b}, err
		}
	}
	cfg.Free = func(r *m2n.Region) { dev.Free(r.User.(kernel.Buffer)) }
	return m2n.NewEndpoint(cfg)
}

// introduce tells the nodes each other's addresses.
func (l *Local) introduce() error {
	var members []pairs.Member
	for _, e := range l.experts {
		members = append(members, pairs.Member{ID: e.name, Addr: e.addr, Epoch: 1})
		for _, a := range l.attention {
			if err := e.ep.SetPeer(a.name, a.addr, 1); err != nil {
				return err
			}
		}
	}
	for _, a := range l.attention {
		a.SetExperts(members)
	}
	return nil
}

// acquaint removes an attention node whose connection is lost from an expert node's
// endpoint and adds it again, so that the two can connect again.
func (l *Local) acquaint(e *expertNode, peer string) {
	for _, a := range l.attention {
		if a.name == peer {
			e.ep.RemovePeer(peer)
			_ = e.ep.SetPeer(peer, a.addr, 1) // fails where the endpoint is closed
		}
	}
}

// run starts the nodes' loops and attaches the attention nodes.
func (l *Local) run() error {
	var ctx [2]context.Context
	for i := range l.loops {
		ctx[i], l.loops[i].cancel = context.WithCancelCause(context.Background())
	}
	for _, e := range l.experts {
		l.loops[1].start(ctx[1], func(ctx context.Context) error {
			err := e.run(ctx)
			if err != nil { // no other expert node will take its place
				l.loops[0].cancel(&serve.UnavailableError{Reason: fmt.Sprintf("%s has failed: %v", e.name, err)})
			}
			return err
		}, l.fail)
	}
	for _, a := range l.attention {
		detach, err := l.Engine.Attach(a.Offer(a.name, 1), a)
		if err != nil {
			return err
		}
		l.loops[0].start(ctx[0], func(ctx context.Context) error {
			err := a.Run(ctx)
			detach(&serve.UnavailableError{Reason: fmt.Sprintf("%s has ended: %v", a.name, err)})
			return err
		}, l.fail)
	}
	return nil
}

// run runs the node's loop. If the loop fails, run closes the endpoint, so that the
// node's peers learn at once that nobody answers them any more.
func (n *expertNode) run(ctx context.Context) error {
	err := n.Run(ctx)
	if err == nil {
		return nil
	}
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(err, leave(soon, n.ep))
}

// fail keeps the first error of a node. From then on the deployment serves nothing.
func (l *Local) fail(err error) {
	if err == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = err
		l.options.Log.Error("node failed", "error", err)
	}
}

// missing says why the deployment cannot serve; "" where it can.
func (l *Local) missing() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return l.failed.Error()
	}
	return ""
}

// AttentionNodes returns the attention nodes, in the order of their numbers.
func (l *Local) AttentionNodes() []*attention.Node {
	var all []*attention.Node
	for _, a := range l.attention {
		all = append(all, a.Node)
	}
	return all
}

// Missing says why the deployment cannot serve; "" where it can.
func (l *Local) Missing() string { return l.missing() }

// CacheTokens is the size of all attention nodes' KV caches together, in tokens.
func (l *Local) CacheTokens() int { return l.options.cacheTokens(l.model.Spec) * l.options.Attention }

// CacheFrom says in words why the KV cache has its size.
func (l *Local) CacheFrom() string { return l.options.cacheFrom }

// NodeInfo describes a node to people.
type NodeInfo struct {
	Node, Role, Device, Holds string
}

// Nodes describes the nodes.
func (l *Local) Nodes() []NodeInfo {
	var all []NodeInfo
	for _, a := range l.attention {
		all = append(all, NodeInfo{
			Node: a.name, Role: string(cluster.Attention), Device: a.dev.Properties().Name,
			Holds: holdsCache(l.options.cacheTokens(l.model.Spec)),
		})
	}
	for i, e := range l.experts {
		all = append(all, NodeInfo{
			Node: e.name, Role: string(cluster.Expert), Device: e.dev.Properties().Name,
			Holds: holdsExperts(l.options.Placement, i),
		})
	}
	return all
}

func holdsCache(tokens int) string { return fmt.Sprintf("KV cache of %d tokens", tokens) }

// holdsExperts says in words how many experts a place has: per layer where all layers
// have the same number, else in total.
func holdsExperts(p route.Placement, place int) string {
	least, most, total := math.MaxInt, 0, 0
	for l, experts := range p.Experts(place) {
		if p.Layers[l] != nil {
			least, most, total = min(least, len(experts)), max(most, len(experts)), total+len(experts)
		}
	}
	if least == most {
		return fmt.Sprintf("%d experts of each layer", most)
	}
	return fmt.Sprintf("%d experts of all layers", total)
}

// Stats returns each node's statistics.
func (l *Local) Stats() []node.Stats {
	var all []node.Stats
	for _, a := range l.attention {
		s := a.Stats()
		s.Node = a.name
		all = append(all, s)
	}
	for _, e := range l.experts {
		s := e.Stats()
		s.Node = e.name
		all = append(all, s)
	}
	return all
}

// closeTimeout bounds the orderly closing of endpoints.
const closeTimeout = 5 * time.Second

// Close ends the nodes and frees their memory. Requests that still run end with an
// error. It ends attention nodes first: the expert nodes still take the messages that
// they have sent, so that no node waits for another.
func (l *Local) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var errs []error
	l.loops[0].stop()
	for _, a := range l.attention {
		errs = append(errs, leave(ctx, a.ep))
	}
	l.loops[1].stop()
	for _, e := range l.experts {
		errs = append(errs, leave(ctx, e.ep))
	}
	for _, a := range l.attention {
		errs = append(errs, a.free())
	}
	for _, e := range l.experts {
		errs = append(errs, e.free())
	}
	l.pool.Close()
	return errors.Join(errs...)
}

// leave closes an endpoint, unless it is nil.
func leave(ctx context.Context, ep *m2n.Endpoint) error {
	if ep == nil {
		return nil
	}
	return ep.Close(ctx)
}

// free gives back what the node has.
func (n *attentionNode) free() error {
	if n.Node != nil {
		n.Free()
	}
	if n.cache != nil {
		n.cache.Free(n.dev)
	}
	if n.dev == nil {
		return nil
	}
	return n.dev.Close()
}

// free gives back what the node has.
func (n *expertNode) free() error {
	if n.Node != nil {
		n.Free()
	}
	if n.dev == nil {
		return nil
	}
	return n.dev.Close()
}
