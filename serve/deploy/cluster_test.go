package deploy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// nodeEnv is the environment variable that makes a process of this test binary a node;
// its value is a nodeSpec.
const nodeEnv = "TANDEM_TEST_NODE"

// nodeSpec says which node a process is.
type nodeSpec struct {
	Role, Control, Listen, Advertise, Model string
	Grace                                   time.Duration
	// Via is the address of a forwarder through which the node reaches its peers: the
	// first line of a connection names the peer's address.
	Via string
	// Wire is the wire that the front end must have for the node to join.
	Wire string
	// ExpertWait is Options.ExpertWait.
	ExpertWait time.Duration
	// Slow is the longest pause of the device at each call of attention or experts.
	Slow time.Duration
}

// dial connects to a peer, through the forwarder if there is one.
func (s nodeSpec) dial() func(context.Context, string) (net.Conn, error) {
	if s.Via == "" {
		return nil
	}
	return func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Via)
		if err != nil {
			return nil, err
		}
		if _, err := fmt.Fprintln(conn, addr); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}
}

func TestMain(m *testing.M) {
	if text := os.Getenv(nodeEnv); text != "" {
		os.Exit(runNode(text))
	}
	goleak.VerifyTestMain(m)
}

// nodeOptions are what all nodes of these tests have in common.
func nodeOptions() deploy.Options {
	return deploy.Options{MaxBatchedTokens: 64, MaxNumSeqs: 16, KVMemory: 64 << 20, Threads: 1, NoPrefixReuse: true}
}

func runNode(text string) int {
	var s nodeSpec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	m, err := deploy.OpenModel(s.Model)
	if err == nil {
		o := nodeOptions()
		o.Log, o.ExpertWait = slog.New(slog.NewTextHandler(os.Stderr, nil)), s.ExpertWait
		if s.Slow > 0 {
			o.Transport, o.Device = "tcp", slowDevice(s.Slow)
		}
		err = work(ctx, m, deploy.NodeOptions{
			Options: o, Role: cluster.Role(s.Role), Control: s.Control, Listen: s.Listen, Advertise: s.Advertise, Version: "test",
			Grace: s.Grace, Dial: s.dial(), WantWire: s.Wire,
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// slowDevice makes devices that pause, so that nodes' messages meet in other orders.
func slowDevice(most time.Duration) func(string, *kernel.Pool) (kernel.ExpertDevice, error) {
	return func(_ string, pool *kernel.Pool) (kernel.ExpertDevice, error) {
		dev, err := kernel.NewCPU(kernel.CPUOptions{Pool: pool, Threads: 1})
		if err != nil {
			return nil, err
		}
		return kerneltest.NewSlow(dev, most), nil
	}
}

func work(ctx context.Context, m *deploy.Model, o deploy.NodeOptions) error {
	n, err := deploy.NewNode(m, o)
	if err != nil {
		return err
	}
	defer tell(n)()
	return errors.Join(n.Run(ctx), n.Close())
}

// tell prints the node's connections with its peers at each SIGUSR1.
func tell(n *deploy.Node) (stop func()) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	var telling sync.WaitGroup
	telling.Go(func() {
		for range asked {
			_ = m2n.WriteTable(os.Stderr, n.Stats().Peers) // an error could not be printed either
		}
	})
	return func() {
		signal.Stop(asked)
		close(asked)
		telling.Wait()
	}
}

// testCluster is a front end in this process with nodes in others.
type testCluster struct {
	t       *testing.T
	control *deploy.Control
	url     string
	model   string        // the model of nodes to be started
	opened  *deploy.Model // the front end's model
	log     *lockedBuffer // the front end's log
	slow    time.Duration // nodeSpec.Slow of all nodes; where set, they use TCP
}

// startCluster starts the front end of a model, for so many expert nodes.
func startCluster(t *testing.T, dir string, experts, micro int) *testCluster {
	t.Helper()
	return startClusterBy(t, dir, experts, micro, route.Wire{})
}

// startClusterBy is startCluster with a wire.
func startClusterBy(t *testing.T, dir string, experts, micro int, wire route.Wire) *testCluster {
	t.Helper()
	return startClusterOf(t, dir, func(_ *deploy.Model, o *deploy.Options) {
		o.Experts, o.MicroBatches, o.Wire = experts, micro, wire
	})
}

// startClusterOf is startCluster with other options.
func startClusterOf(t *testing.T, dir string, change func(*deploy.Model, *deploy.Options)) *testCluster {
	t.Helper()
	m, err := deploy.OpenModel(dir)
	require.NoError(t, err)
	o := nodeOptions()
	change(m, &o)
	log := &lockedBuffer{}
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	control, err := deploy.NewControl(m, o, "test")
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { _ = control.Serve(ctx, l) })
	t.Cleanup(func() {
		cancel()
		serving.Wait()
	})
	return &testCluster{t: t, control: control, url: "http://" + l.Addr().String(), model: dir, opened: m, log: log}
}

// process is a node that runs in its own process.
type process struct {
	*exec.Cmd
	log  *lockedBuffer
	done chan struct{}
}

// lockedBuffer collects what a process prints.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// node starts a node process, which ends with the test.
func (c *testCluster) node(s nodeSpec) *process {
	c.t.Helper()
	s.Model, s.Slow = c.model, c.slow
	if s.Control == "" {
		s.Control = c.url
	}
	if s.Listen == "" {
		s.Listen = "127.0.0.1:0"
	}
	text, err := json.Marshal(s)
	require.NoError(c.t, err)
	p := &process{Cmd: exec.Command(os.Args[0]), log: &lockedBuffer{}, done: make(chan struct{})}
	p.Env = append(os.Environ(), nodeEnv+"="+string(text))
	p.Stdout, p.Stderr = p.log, p.log
	require.NoError(c.t, p.Start())
	go func() {
		_ = p.Wait()
		close(p.done)
	}()
	c.t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.done
		if c.t.Failed() {
			c.t.Logf("%s node, process %d:\n%s", s.Role, p.Process.Pid, p.log)
		}
	})
	return p
}

// ready waits until the cluster can serve with so many attention nodes.
func (c *testCluster) ready(attention int, within time.Duration) {
	c.t.Helper()
	want := attention * nodeOptions().MaxNumSeqs
	require.Eventually(c.t, func() bool {
		return c.control.Missing() == "" && c.control.Engine.Counts().Capacity == want
	}, within, 20*time.Millisecond, "the cluster is not ready: %q", c.control.Missing())
}

// TestProcessesGiveTheSameBits serves the requests of the layouts test with
// nodes in processes of their own, started in the wrong order.
func TestProcessesGiveTheSameBits(t *testing.T) {
	m, err := deploy.OpenModel("")
	require.NoError(t, err)
	for _, wire := range []route.Wire{{}, {Rows: kernel.RowInt8, Combine: route.Partial}} {
		t.Run(wire.String(), func(t *testing.T) { answersInProcesses(t, m, wire) })
	}
}

// answersInProcesses compares the answers of nodes in processes of their own with the
// plain version's. Only the front end's options have the wire; it tells the nodes.
func answersInProcesses(t *testing.T, m *deploy.Model, wire route.Wire) {
	const experts = 3
	want := plain(t, m, numerics{wire: wire, experts: experts})
	c := startClusterBy(t, "", experts, 2, wire)
	var nodes []*process
	for range 2 {
		nodes = append(nodes, c.node(nodeSpec{Role: "attention"}))
	}
	for range experts {
		nodes = append(nodes, c.node(nodeSpec{Role: "expert"}))
	}
	c.ready(2, 30*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	list := requests(m.Spec.Vocabulary)
	var all sync.WaitGroup
	for i, r := range list {
		all.Go(func() {
			got, err := ask(ctx, c.control.Engine, r)
			if err != nil || got.bits() != want[i].bits() {
				t.Errorf("request %d: %v\nwant %s\ngot %s", i, err, want[i].bits(), got.bits())
			}
		})
	}
	all.Wait()
	if runtime.GOOS == "linux" {
		for i, p := range nodes {
			p.sharesMemory(t, []int{experts, experts, 2, 2, 2}[i])
		}
	}
}

// sharesMemory checks that a node is connected with so many peers, all of them by shared
// memory, the default of nodes on one host.
func (p *process) sharesMemory(t *testing.T, peers int) {
	t.Helper()
	require.NoError(t, p.Process.Signal(syscall.SIGUSR1))
	pair := regexp.MustCompile(`(?m)^(attention|expert)-\d+\S* .* up .*$`)
	var pairs []string
	require.Eventually(t, func() bool {
		pairs = pair.FindAllString(p.log.String(), -1)
		return len(pairs) == peers
	}, 10*time.Second, 10*time.Millisecond, "%s", p.log)
	for _, line := range pairs {
		require.Regexp(t, `\bshm\b`, line)
	}
}

// TestNodeWithAnotherWireIsRefused starts a node that wants a wire other than the
// cluster's: the node ends, and the front end's log has both wires.
func TestNodeWithAnotherWireIsRefused(t *testing.T) {
	c := startClusterBy(t, "", 1, 1, route.Wire{Rows: kernel.RowBF16})
	p := c.node(nodeSpec{Role: "attention", Wire: "int8"})
	p.ends(t)
	require.Contains(t, p.log.String(), "the node differs from the cluster")
	require.Contains(t, c.log.String(), "wire: the cluster has bf16, the node int8")
	agrees := c.node(nodeSpec{Role: "attention", Wire: "bf16"})
	require.Eventually(t, func() bool { return strings.Contains(agrees.log.String(), "joined") }, 20*time.Second, 10*time.Millisecond)
}

// ends waits until a node's process has ended.
func (p *process) ends(t *testing.T) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		t.Fatal("the node goes on")
	}
	require.Equal(t, 1, p.ProcessState.ExitCode())
}

// TestNodeOfAnotherModelIsRefused starts a node whose model is not the
// cluster's: it ends, and the front end's log has both values.
func TestNodeOfAnotherModelIsRefused(t *testing.T) {
	c := startCluster(t, "", 1, 1)
	c.model = models(t)[0]
	p := c.node(nodeSpec{Role: "expert"})
	p.ends(t)
	require.Contains(t, p.log.String(), "the node differs from the cluster")
	require.Contains(t, c.log.String(), "the cluster has")
}
