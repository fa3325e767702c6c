package deploy_test

import (
	"context"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n/m2ntest"
)

// life matches an id. Its end differs from one front end process to the next.
var life = regexp.MustCompile(`(attention|expert)-(\d+)\.\w+`)

// numbered cuts the ids in a text off after their numbers.
func numbered(text string) string { return life.ReplaceAllString(text, "$1-$2") }

// becomes waits until the cluster's Missing has the text.
func (c *testCluster) becomes(missing string) {
	c.t.Helper()
	require.Eventually(c.t, func() bool { return strings.Contains(numbered(c.control.Missing()), missing) }, 30*time.Second, 10*time.Millisecond,
		"want %q", missing)
}

// logs waits until a node's output has a text.
func (p *process) logs(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(numbered(p.log.String()), text) }, 30*time.Second, 10*time.Millisecond, "want %q", text)
}

// TestUnreachableExpertNode advertises an address at which nothing listens, as behind a
// NAT. The cluster is not ready, each request is refused at once with the pair and the
// reason, and the logs of both nodes have them. The cluster serves once the address works.
func TestUnreachableExpertNode(t *testing.T) {
	c := startCluster(t, "", 1, 1)
	listen, advertise := freeAddr(t), freeAddr(t)
	attention := c.node(nodeSpec{Role: "attention"})
	expert := c.node(nodeSpec{Role: "expert", Listen: listen, Advertise: advertise})
	why := "attention-0 cannot reach expert-0 at " + advertise + ": connection refused"
	c.becomes(why)
	list := c.longRequests("prefill")[:1]
	for range 3 {
		require.Contains(t, numbered(c.refused(list[0])), why)
	}
	attention.logs(t, "an expert node cannot be reached")
	expert.logs(t, "this node cannot be reached")
	expert.logs(t, why)

	l, err := net.Listen("tcp", advertise)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go join(conn, listen)
		}
	}()
	c.ready(1, 30*time.Second)
	attention.logs(t, "msg=ready")
	expert.logs(t, "an attention node is connected")
	expert.logs(t, "reach this node again")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, c.askAll(ctx, list).errs[0])
}

// TestIdleClusterNoticesALostPair: the connection of two nodes is lost while no request
// needs it. The cluster notices without a request, and recovers.
func TestIdleClusterNoticesALostPair(t *testing.T) {
	c := startCluster(t, "", 1, 1)
	v := startVictim(c, "expert", peers)
	attention := c.node(nodeSpec{Role: "attention"})
	c.ready(1, 30*time.Second)
	v.proxy.SetBoth(m2ntest.Drop)
	c.becomes("cannot reach expert-0 at " + v.spec.Advertise + ": no answer in time")
	require.Contains(t, numbered(attention.log.String()), "level=WARN msg=\"an expert node is lost: requests wait for one in its place\" node=attention-0 peer=expert-0")
	v.proxy.SetBoth(m2ntest.Pass)
	c.ready(1, 30*time.Second)
	require.NotContains(t, attention.log.String(), "not a member of the cluster any more")
}

// TestNodeKeepsItsAddress: a node that joins again has the same address, although other
// processes would have taken its port.
func TestNodeKeepsItsAddress(t *testing.T) {
	c := startCluster(t, "", 1, 1)
	listen := freeAddr(t)
	expert := c.node(nodeSpec{Role: "expert", Listen: listen})
	for i := range 3 {
		c.becomes("no attention node is ready")
		view, _ := c.control.Members.View()
		require.Eventually(t, func() bool {
			view, _ = c.control.Members.View()
			return len(view.Members) == 1 && view.Members[0].Ready
		}, 30*time.Second, time.Millisecond)
		require.Equal(t, "shm+tcp:"+listen, view.Members[0].Addr)
		c.control.Members.Expel(view.Members[0].ID)
		taken, err := net.Listen("tcp", listen)
		if err == nil {
			taken.Close()
		}
		require.ErrorContains(t, err, "address already in use", "membership %d", i)
	}
	require.NotContains(t, expert.log.String(), "listening for peers")
}

// TestWaitingForTheFrontEndIsNoWarning: a node that starts before its front end logs no
// warning.
func TestWaitingForTheFrontEndIsNoWarning(t *testing.T) {
	c := startCluster(t, "", 1, 1)
	alone := c.node(nodeSpec{Role: "expert", Control: "http://" + freeAddr(t)})
	alone.logs(t, "level=INFO msg=\"waiting for the front end, trying to join\"")
	time.Sleep(time.Second)
	require.Equal(t, 1, strings.Count(alone.log.String(), "waiting for the front end"), "%s", alone.log)
	require.NotContains(t, alone.log.String(), "WARN")
}
