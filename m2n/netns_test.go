//go:build linux

package m2n_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var netnsSeconds = flag.Float64("netns.seconds", 0.2, "how long the tests over shaped links measure, each, after a warm-up of at most a second")

// lineRate is that of each link, in bytes per second.
const lineRate = 1e9 / 8

// requireBusy asks of a link, or of some, what a machine reaches that has much
// else to do. In a moment such a machine may reach nothing.
func requireBusy(t *testing.T, share float64) {
	t.Helper()
	if *netnsSeconds >= 1 {
		require.Greater(t, share, 0.2, "the share of the line rate")
	}
}

// requireSome asks for a measurement, too. Without any the rest is skipped.
func requireSome(t *testing.T, times []time.Duration) {
	t.Helper()
	if len(times) == 0 {
		require.Less(t, *netnsSeconds, 1., "nothing arrived in a long time")
		t.Skip("this machine is so busy that nothing arrived in a short time")
	}
}

// burst is what a link lets pass at once, in bytes.
const burst = 128 << 10

// payloadShare is the most of a link that the payload of TCP can be: of a packet
// of 1500 bytes and 14 of Ethernet, TBF counts all and 1448 are payload (IPv4,
// TCP with timestamps).
const payloadShare = 1448. / 1514

// TestShapedLinksExchange: four senders and four receivers, a process each in a
// namespace of its own, over links of 1 Gbit/s. The goal is 90 % of the line
// rate in payload; a machine that is too slow for it is not a mistake.
func TestShapedLinksExchange(t *testing.T) {
	senders, receivers := []string{"s0", "s1", "s2", "s3"}, []string{"r0", "r1", "r2", "r3"}
	g := newGround(t, slices.Concat(senders, receivers))
	nodes := g.exchange(senders, receivers)
	begun := monotonic()
	from, until := g.window(nodes)
	var sum exchangeReport
	for _, n := range nodes {
		var r exchangeReport
		n.report(&r)
		sum.Received += r.Received
		sum.Total += r.Total
	}
	line := lineRate * float64(len(receivers))
	share := float64(sum.Received) / (line * (until - from).Seconds())
	t.Logf("4 × 4, 256 KB messages, 4 in flight per pair, %v: payload is %.1f %% of the line rate (headers leave %.1f %%)",
		until-from, 100*share, 100*payloadShare)
	requireBusy(t, share)
	most := line*(until-begun).Seconds() + float64(len(receivers)*burst)
	require.Less(t, float64(sum.Total), most, "more bytes than the links carry: they are not shaped")
}

// exchange starts a process for each sender and receiver.
func (g *ground) exchange(senders, receivers []string) []*netNode {
	job := exchangeJob{Bytes: 256 << 10, InFlight: 4}
	var nodes []*netNode
	for _, r := range receivers {
		j := job
		j.ID, j.Listen, j.Peers = r, "tcp:"+g.address(r)+":7000", map[string]string{}
		for _, s := range senders {
			j.Peers[s] = ""
		}
		nodes = append(nodes, g.start(r, "exchange", j))
	}
	for _, s := range senders {
		j := job
		j.ID, j.Peers = s, map[string]string{}
		for _, r := range receivers {
			j.Peers[r] = "tcp:" + g.address(r) + ":7000"
			j.SendTo = append(j.SendTo, r)
		}
		nodes = append(nodes, g.start(s, "exchange", j))
	}
	return nodes
}

// TestShapedLinksCredits: data saturates both directions of a link, whose queue
// holds a megabyte or more. How long is a credit on its way, from Release to
// where it can be used? The goal is a P99 below 2 ms where the queue sends what
// has SO_PRIORITY 6 first.
func TestShapedLinksCredits(t *testing.T) {
	const pairs = 4
	for _, tc := range []struct {
		name string
		prio bool
		job  creditsJob
	}{
		{"prio", true, creditsJob{}},
		{"plain", false, creditsJob{}},
		// Nine tenths of what the headers leave, in equal parts.
		{"paced", false, creditsJob{Pace: 27_000_000}},
		{"bbr", false, creditsJob{Congestion: "bbr"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.job.Congestion != "" && !kernelKnows(tc.job.Congestion) {
				t.Skip("this kernel does not know " + tc.job.Congestion)
			}
			tc.job.Pairs, tc.job.Bytes = pairs, 256<<10
			g := newGround(t, []string{"a", "b"}, cable(tc.prio)...)
			nodes := []*netNode{g.credits("a", "b", tc.job), g.credits("b", "a", tc.job)}
			from, until := g.window(nodes)
			var reports [2]creditsReport
			for i, n := range nodes {
				n.report(&reports[i])
				share := float64(reports[i].Received) / (lineRate * (until - from).Seconds())
				t.Logf("data to %s is %.1f %% of the line rate", n.name, 100*share)
				requireBusy(t, share)
			}
			travel := slices.Concat(
				travels(reports[0].Released, reports[1].Credited, from, until),
				travels(reports[1].Released, reports[0].Credited, from, until))
			requireSome(t, travel)
			slices.Sort(travel)
			t.Logf("%d credits travelled for %s", len(travel), quantiles(travel))
		})
	}
}

// credits starts one end of the pairs between two nodes.
func (g *ground) credits(node, peer string, job creditsJob) *netNode {
	job.Name, job.Host, job.Peer, job.PeerHost = node, g.address(node), peer, g.address(peer)
	return g.start(node, "credits", job)
}

// kernelKnows tells whether an algorithm of congestion control may be used.
func kernelKnows(congestion string) bool {
	known, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	return err == nil && slices.Contains(strings.Fields(string(known)), congestion)
}

// travels pairs the k-th release with the k-th credit of each pair.
func travels(released, credited [][]time.Duration, from, until time.Duration) (times []time.Duration) {
	for pair := range released {
		for k := range min(len(released[pair]), len(credited[pair])) {
			if r := released[pair][k]; r >= from && r < until {
				times = append(times, credited[pair][k]-r)
			}
		}
	}
	return times
}

// TestShapedLinksBands: the ground does what the test above needs of it. Plain
// sockets saturate both directions; what a socket of SO_PRIORITY 6 sends passes
// by their queue where it has bands, and waits in it where it has none.
func TestShapedLinksBands(t *testing.T) {
	median, least := map[bool]time.Duration{}, 1.
	for _, prio := range []bool{true, false} {
		g := newGround(t, []string{"a", "b"}, cable(prio)...)
		b := g.start("b", "bands", bandsJob{Listen: g.address("b") + ":7000"})
		b.await("ready")
		nodes := []*netNode{g.start("a", "bands", bandsJob{Dial: g.address("b") + ":7000", Bulk: 8}), b}
		from, until := g.window(nodes)
		for _, n := range nodes {
			var r bandsReport
			n.report(&r)
			share := float64(r.Received) / (lineRate * (until - from).Seconds())
			least = min(least, share)
			requireBusy(t, share)
			requireSome(t, r.Travel)
			slices.Sort(r.Travel)
			median[prio] = max(median[prio], r.Travel[len(r.Travel)/2])
			t.Logf("prio=%v: data to %s is %.1f %% of the line rate; %d marked messages travelled for %s",
				prio, n.name, 100*share, len(r.Travel), quantiles(r.Travel))
		}
		g.remove()
	}
	if least < 0.9 {
		t.Skipf("this machine is too busy to keep a queue in front of the link: data has %.1f %% of the line rate", 100*least)
	}
	require.Less(t, 2*median[true], median[false], "bands let marked packets pass")
}

// cable is two nodes and a link with a queue of 2 MB.
func cable(prio bool) []string {
	options := []string{"--direct", "--queue", "2097152"}
	if prio {
		options = append(options, "--prio")
	}
	return options
}

// quantiles describes sorted times.
func quantiles(sorted []time.Duration) string {
	at := func(q float64) time.Duration {
		return sorted[int(q*float64(len(sorted)-1))].Round(time.Microsecond)
	}
	return fmt.Sprintf("%v (P50), %v (P99), %v at most", at(0.5), at(0.99), at(1))
}

// ground is some namespaces with shaped links between them. They are there for as
// long as the script that made them hears nothing from us: it removes them
// however this process ends.
type ground struct {
	t      *testing.T
	prefix string
	nodes  []string
	remove func()
}

// newGround makes the nodes, or skips the test where it may not.
func newGround(t *testing.T, nodes []string, options ...string) *ground {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: it keeps the machine busy for seconds")
	}
	if os.Geteuid() != 0 {
		t.Skip("not root: it takes network namespaces")
	}
	for _, tool := range []string{"bash", "ip", "tc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s here: it takes bash and Debian's iproute2", tool)
		}
	}
	g := &ground{t: t, prefix: fmt.Sprintf("m2n%d", os.Getpid()), nodes: nodes}
	g.hold(options)
	return g
}

// hold runs the script until the test ends.
func (g *ground) hold(options []string) {
	args := slices.Concat([]string{"--prefix", g.prefix}, options, []string{"hold"}, g.nodes)
	cmd := exec.Command(filepath.Join("..", "scripts", "netns"), args...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	stdin, err := cmd.StdinPipe()
	require.NoError(g.t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(g.t, err)
	require.NoError(g.t, cmd.Start())
	g.remove = func() {
		if stdin.Close() == nil {
			_ = cmd.Wait() // its status says how it was ended
		}
	}
	g.t.Cleanup(g.remove)
	limit := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Signal(os.Interrupt) })
	defer limit.Stop()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		g.remove()
		if strings.Contains(complaints.String(), "not permitted") {
			g.t.Skipf("no right to make namespaces: %s", complaints.String())
		}
		g.t.Fatalf("scripts/netns %s: %s%s", strings.Join(args, " "), line, complaints.String())
	}
}

// address is a node's.
func (g *ground) address(node string) string {
	return fmt.Sprintf("10.77.0.%d", 1+slices.Index(g.nodes, node))
}

// netNode is a process on a node.
type netNode struct {
	g     *ground
	name  string
	in    io.WriteCloser
	lines chan string // what it says, closed when it ends
}

// start runs this test's binary on a node.
func (g *ground) start(node, kind string, job any) *netNode {
	text, err := json.Marshal(job)
	require.NoError(g.t, err)
	cmd := exec.Command("ip", "netns", "exec", g.prefix+"-"+node, os.Args[0], "-test.run=^TestNetworkNode$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), nodeKind+"="+kind, nodeJob+"="+string(text))
	cmd.Stderr = os.Stderr
	n := &netNode{g: g, name: node, lines: make(chan string, 16)}
	n.in, err = cmd.StdinPipe()
	require.NoError(g.t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(g.t, err)
	require.NoError(g.t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(n.lines)
		n.listen(out)
	}()
	g.t.Cleanup(func() {
		n.in.Close()
		kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		<-ended
		_ = cmd.Wait() // who failed has said so
	})
	return n
}

// listen passes lines on until there are none. Nobody waits for those that are
// too many.
func (n *netNode) listen(out io.Reader) {
	for r := bufio.NewReader(out); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		select {
		case n.lines <- strings.TrimSpace(line):
		default:
		}
	}
}

// line is the next that the node says.
func (n *netNode) line() (string, error) {
	select {
	case line, ok := <-n.lines:
		if !ok {
			return "", errors.New("it has ended")
		}
		return line, nil
	case <-time.After(40 * time.Second):
		return "", errors.New("it is silent")
	}
}

// await waits for the node to say something.
func (n *netNode) await(want string) {
	n.g.t.Helper()
	line, err := n.line()
	require.NoError(n.g.t, err, "node %s", n.name)
	require.Equal(n.g.t, want, line, "node %s", n.name)
}

// report waits for the node's.
func (n *netNode) report(to any) {
	n.g.t.Helper()
	line, err := n.line()
	require.NoError(n.g.t, err, "node %s", n.name)
	require.NoError(n.g.t, json.Unmarshal([]byte(line), to), "node %s: %s", n.name, line)
}

// window lets the nodes begin, once they are all ready, and returns when they
// measure, on the clock that they share.
func (g *ground) window(nodes []*netNode) (from, until time.Duration) {
	for _, n := range nodes {
		n.await("ready")
	}
	measure := time.Duration(*netnsSeconds * float64(time.Second))
	from = monotonic() + min(measure, time.Second)
	until = from + measure
	for _, n := range nodes {
		_, err := fmt.Fprintf(n.in, "%d %d\n", from, until)
		require.NoError(g.t, err)
	}
	return from, until
}
