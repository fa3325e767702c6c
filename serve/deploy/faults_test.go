package deploy_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/m2n/m2ntest"
	"github.com/tandem-moe/tandem/serve"
)

// errorWithin bounds the time from a fault to the error of an affected request.
const errorWithin = 5 * time.Second

var stopFor = flag.Duration("faults.stop", errorWithin, "how long a stopped process stays so")

// place says where a proxy is: between the node and its peers, or between the node and
// its front end.
type place int

const (
	nowhere place = iota
	peers
	control
)

// fault is something that happens to a node, and how it ends.
type fault struct {
	name   string
	proxy  place // where the fault's proxy is
	inject func(*victim)
	heal   func(*victim)
}

// victim is the node that a fault happens to.
type victim struct {
	c     *testCluster
	spec  nodeSpec
	p     *process
	proxy *m2ntest.Proxy
	since time.Time // when the fault happened
}

var faults = []fault{
	{
		name:   "SIGKILL",
		inject: func(v *victim) { _ = v.p.Process.Kill() },
		heal:   func(v *victim) { v.p = v.c.node(v.spec) },
	},
	{
		name:   "SIGSTOP",
		inject: func(v *victim) { _ = v.p.Process.Signal(syscall.SIGSTOP) },
		heal: func(v *victim) {
			time.Sleep(time.Until(v.since.Add(*stopFor)))
			_ = v.p.Process.Signal(syscall.SIGCONT)
		},
	},
	{
		name:   "drop",
		proxy:  peers,
		inject: func(v *victim) { v.proxy.SetBoth(m2ntest.Drop) },
		heal: func(v *victim) {
			time.Sleep(time.Until(v.since.Add(*stopFor)))
			v.proxy.SetBoth(m2ntest.Pass)
		},
	},
	{ // the network drops the connection silently, and takes new ones
		name:  "half-open control",
		proxy: control,
		inject: func(v *victim) {
			v.proxy.SetOf(0, m2ntest.ToTarget, m2ntest.Drop)
			v.proxy.SetOf(0, m2ntest.FromTarget, m2ntest.Drop)
		},
		heal: func(*victim) {},
	},
	{
		name:   "drop control",
		proxy:  control,
		inject: func(v *victim) { v.proxy.SetBoth(m2ntest.Drop) },
		heal: func(v *victim) {
			time.Sleep(time.Until(v.since.Add(*stopFor)))
			v.proxy.SetBoth(m2ntest.Pass)
		},
	},
}

// TestFaults injects each fault into a node of each role, while requests prefill and
// while they decode. Where an attention node loses its front end or is lost itself, its
// requests end with an error in bounded time, requests on other attention nodes end as
// usual, and after the fault new requests are served. Where an expert node or its
// connection to attention nodes is lost, all requests wait until the fault is over, and
// then end as usual.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("several processes per fault")
	}
	var undisturbed baseline
	var running errgroup.Group
	running.SetLimit(faultsAtOnce)
	for _, role := range []string{"attention", "expert"} {
		for _, f := range faults {
			for _, phase := range []string{"prefill", "decode"} {
				running.Go(func() error {
					t.Run(fmt.Sprintf("%s/%s/%s", role, f.name, phase), func(t *testing.T) {
						testFault(startCluster(t, "", 2, 2), role, f, phase, &undisturbed)
					})
					return nil
				})
			}
		}
	}
	_ = running.Wait() // no error: the subtests fail by themselves
}

// faultsAtOnce is how many faults are tested at a time. A test of a fault waits most of
// its time, so that they are more than t.Parallel would run on a machine of two
// processors.
const faultsAtOnce = 4

// TestFaultsOnWideRows injects faults while prompts fill messages of half a megabyte
// and more in each layer, by TCP, between nodes that take their time.
func TestFaultsOnWideRows(t *testing.T) {
	if testing.Short() {
		t.Skip("several processes per fault")
	}
	var undisturbed baseline
	for i, role := range []string{"attention", "expert"} {
		f := faults[2*i] // SIGKILL, drop
		t.Run(role+"/"+f.name, func(t *testing.T) {
			c := startCluster(t, wideFolder(t), 2, 2)
			c.slow = 2 * time.Millisecond
			testFault(c, role, f, "prefill", &undisturbed)
		})
	}
}

// baseline are the answers of undisturbed requests, by phase. They are the same in all
// clusters, so that one cluster has to give them.
type baseline struct {
	mu    sync.Mutex
	known map[string]results
}

func (b *baseline) of(ctx context.Context, c *testCluster, phase string, list []serve.Request) results {
	c.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if r, ok := b.known[phase]; ok {
		return r
	}
	r := c.askAll(ctx, list)
	require.NoError(c.t, errors.Join(r.errs...))
	if b.known == nil {
		b.known = map[string]results{}
	}
	b.known[phase] = r
	return r
}

func testFault(c *testCluster, role string, f fault, phase string, undisturbed *baseline) {
	t := c.t
	v := startVictim(c, role, f.proxy)
	c.node(nodeSpec{Role: "attention"})
	c.node(nodeSpec{Role: "expert"})
	if role == "attention" {
		c.node(nodeSpec{Role: "expert"})
	} else {
		c.node(nodeSpec{Role: "attention"})
	}
	c.ready(2, 30*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute+*stopFor)
	defer cancel()
	list := c.longRequests(phase)
	want := undisturbed.of(ctx, c, phase, list)
	if role == "attention" && f.proxy != peers {
		endsRequests(c, ctx, v, f, phase, list, want)
	} else {
		holdsRequests(c, ctx, v, f, phase, list, want)
	}
}

// endsRequests checks a fault that ends the requests of an attention node.
func endsRequests(c *testCluster, ctx context.Context, v *victim, f fault, phase string, list []serve.Request, want results) {
	t := c.t
	got := c.askAllWith(ctx, list, phase, func() {
		v.since = time.Now()
		f.inject(v)
	})
	failed := 0
	for i, err := range got.errs {
		if err != nil {
			failed++
			var unavailable *serve.UnavailableError
			require.ErrorAs(t, err, &unavailable, "request %d", i)
			require.Less(t, got.ended[i], errorWithin, "request %d: %v", i, err)
			require.NotRegexp(t, "context canceled|is stopping", err.Error(), "the cause is another one")
			continue
		}
		require.Equal(t, want.answers[i].bits(), got.answers[i].bits(), "request %d", i)
	}
	require.Positive(t, failed, "the fault affected nobody")
	require.Less(t, failed, len(list), "the fault affected requests of the other attention node")
	f.heal(v)
	again := c.askUntilServed(ctx, list)
	for i := range list {
		require.Equal(t, want.answers[i].bits(), again.answers[i].bits(), "request %d, after the fault", i)
	}
}

// holdsRequests checks a fault of expert nodes, which holds requests up until it is over.
// The attention nodes stay members and keep their ids.
func holdsRequests(c *testCluster, ctx context.Context, v *victim, f fault, phase string, list []serve.Request, want results) {
	before := c.ids(cluster.Attention)
	var healing sync.WaitGroup
	got := c.askAllWith(ctx, list, phase, func() {
		v.since = time.Now()
		f.inject(v)
		healing.Go(func() { f.heal(v) })
	})
	healing.Wait()
	for i := range list {
		require.NoError(c.t, got.errs[i], "request %d", i)
		require.Equal(c.t, want.answers[i].bits(), got.answers[i].bits(), "request %d", i)
	}
	c.ready(2, 30*time.Second)
	require.Equal(c.t, before, c.ids(cluster.Attention))
}

// ids returns the ids of the members of a role.
func (c *testCluster) ids(r cluster.Role) (ids []string) {
	view, _ := c.control.Members.View()
	for _, m := range view.Of(r) {
		ids = append(ids, m.ID)
	}
	return ids
}

// askUntilServed submits requests again until all are served, as a client with retries
// does while the cluster recovers.
func (c *testCluster) askUntilServed(ctx context.Context, list []serve.Request) results {
	for {
		c.ready(2, 30*time.Second)
		r := c.askAll(ctx, list)
		if err := errors.Join(r.errs...); err == nil {
			return r
		}
		require.NoError(c.t, ctx.Err(), "requests do not flow again: %v", errors.Join(r.errs...))
	}
}

// startVictim starts a node, perhaps with a proxy. A proxy towards peers is one through
// which an expert node is reached or an attention node reaches its peers; a proxy
// towards the front end is one through which the node reaches it.
func startVictim(c *testCluster, role string, proxy place) *victim {
	v := &victim{c: c, spec: nodeSpec{Role: role}}
	switch proxy {
	case peers:
		v.startProxy()
	case control:
		v.proxyControl()
	}
	v.p = c.node(v.spec)
	return v
}

func (v *victim) startProxy() {
	c, role := v.c, v.spec.Role
	target := freeAddr(c.t)
	if role == "attention" {
		target = forwarder(c.t)
	}
	var err error
	v.proxy, err = m2ntest.NewProxy(target)
	require.NoError(c.t, err)
	c.t.Cleanup(v.proxy.Close)
	addr := strings.TrimPrefix(v.proxy.Addr(), "tcp:")
	if role == "attention" {
		v.spec.Via = addr
	} else {
		v.spec.Listen, v.spec.Advertise = target, addr
	}
}

func (v *victim) proxyControl() {
	var err error
	v.proxy, err = m2ntest.NewProxy(strings.TrimPrefix(v.c.url, "http://"))
	require.NoError(v.c.t, err)
	v.c.t.Cleanup(v.proxy.Close)
	v.spec.Control = "http://" + strings.TrimPrefix(v.proxy.Addr(), "tcp:")
}

// freeAddr is an address that nobody listens at.
func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// forwarder connects each connection with the address in its first line.
func forwarder(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go forward(conn)
		}
	}()
	return l.Addr().String()
}

// forward reads the address byte by byte, so that it reads nothing of what follows.
func forward(conn net.Conn) {
	defer conn.Close()
	var addr []byte
	for b := make([]byte, 1); ; addr = append(addr, b[0]) {
		if _, err := conn.Read(b); err != nil {
			return
		}
		if b[0] == '\n' {
			break
		}
	}
	join(conn, string(addr))
}

// join connects a connection with an address.
func join(conn net.Conn, addr string) {
	defer conn.Close()
	to, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		_, _ = io.Copy(to, conn)
		to.Close()
	}()
	_, _ = io.Copy(conn, to)
}

// longRequests returns requests that take long, in prefill or in decoding.
func (c *testCluster) longRequests(phase string) []serve.Request {
	var list []serve.Request
	for i := range 6 {
		r := serve.Request{MaxTokens: 250, Logprobs: -1, PromptLogprobs: -1}
		n := 8
		if phase == "prefill" {
			r.MaxTokens, n = 4, 1500
		}
		for j := range n {
			r.Prompt = append(r.Prompt, int32((i*977+j*31)%min(4000, c.opened.Spec.Vocabulary-1)+1))
		}
		list = append(list, r)
	}
	return list
}

// results are the answers of several requests, and how long after the fault each ended.
type results struct {
	answers []answer
	errs    []error
	ended   []time.Duration
}

func (c *testCluster) askAll(ctx context.Context, list []serve.Request) results {
	return c.askAllWith(ctx, list, "", func() {})
}

// askAllWith asks all requests at once, and calls during when they are in the
// phase: the first has its first token, or all have been submitted for a moment.
func (c *testCluster) askAllWith(ctx context.Context, list []serve.Request, phase string, during func()) results {
	r := results{make([]answer, len(list)), make([]error, len(list)), make([]time.Duration, len(list))}
	streams := make([]serve.Stream, len(list))
	for i := range list {
		if streams[i], r.errs[i] = c.control.Engine.Submit(ctx, list[i]); r.errs[i] != nil {
			return r
		}
	}
	first := make(chan struct{}, len(list))
	var at time.Time
	var mu sync.Mutex
	var all sync.WaitGroup
	for i, s := range streams {
		all.Go(func() {
			r.answers[i], r.errs[i] = drain(ctx, s, first)
			mu.Lock()
			defer mu.Unlock()
			r.ended[i] = time.Since(at)
		})
	}
	if phase == "prefill" {
		time.Sleep(100 * time.Millisecond)
	} else if phase == "decode" {
		for range list {
			<-first
		}
	}
	mu.Lock()
	at = time.Now()
	mu.Unlock()
	during()
	all.Wait()
	return r
}

// drain reads a stream to its end, and signals its first token.
func drain(ctx context.Context, s serve.Stream, first chan<- struct{}) (answer, error) {
	defer s.Close()
	told := sync.OnceFunc(func() { first <- struct{}{} })
	defer told()
	var a answer
	for {
		e, err := s.Next(ctx)
		if err != nil {
			return a, ignoreEOF(err)
		}
		told()
		a.add(e)
	}
}
