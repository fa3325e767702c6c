package deploy_test

import (
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/serve"
)

// Each request of these tests takes about a second. longGrace is longer than that,
// shortGrace is shorter.
const (
	longGrace  = 30 * time.Second
	shortGrace = 50 * time.Millisecond
)

// stop tells a node to stop.
func (p *process) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
}

// ended waits for a node's orderly end.
func (p *process) ended(t *testing.T, within time.Duration) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		_ = p.Process.Signal(syscall.SIGQUIT) // prints where it hangs
		<-p.done
		t.Fatal("the node goes on")
	}
	require.Equal(t, 0, p.ProcessState.ExitCode(), p.log)
}

// smallCluster has so many attention nodes and one expert node.
func smallCluster(t *testing.T, attention int, grace time.Duration) (c *testCluster, attentions []*process, expert *process) {
	t.Helper()
	c = startCluster(t, "", 1, 2)
	expert = c.node(nodeSpec{Role: "expert", Grace: grace})
	for range attention {
		attentions = append(attentions, c.node(nodeSpec{Role: "attention", Grace: grace, ExpertWait: time.Second}))
	}
	c.ready(attention, 30*time.Second)
	return c, attentions, expert
}

// refused says why a request is refused.
func (c *testCluster) refused(r serve.Request) string {
	s, err := c.control.Engine.Submit(c.t.Context(), r)
	if err == nil {
		s.Close()
		return ""
	}
	var unavailable *serve.UnavailableError
	require.ErrorAs(c.t, err, &unavailable)
	return err.Error()
}

// TestAttentionNodeDrains stops one of two attention nodes while both decode: all
// running requests finish as usual, new requests go to the other node, and the node
// ends once its own requests have ended.
func TestAttentionNodeDrains(t *testing.T) {
	c, nodes, _ := smallCluster(t, 2, longGrace)
	ctx := bounded(t)
	list := c.longRequests("decode")
	want := c.askAll(ctx, list)
	var more results
	var late sync.WaitGroup
	got := c.askAllWith(ctx, list, "decode", func() {
		nodes[0].stop(t)
		require.Eventually(t, func() bool {
			view, _ := c.control.Members.View()
			for _, m := range view.Members {
				if m.Draining {
					return true
				}
			}
			return false
		}, 5*time.Second, time.Millisecond)
		late.Go(func() { more = c.askAll(ctx, list) })
	})
	nodes[0].ended(t, 10*time.Second)
	late.Wait()
	for i := range list {
		require.NoError(t, want.errs[i])
		require.NoError(t, got.errs[i], "request %d that ran", i)
		require.NoError(t, more.errs[i], "request %d that came later", i)
		require.Equal(t, want.answers[i].bits(), got.answers[i].bits(), "request %d that ran", i)
		require.Equal(t, want.answers[i].bits(), more.answers[i].bits(), "request %d that came later", i)
	}
	require.Contains(t, nodes[0].log.String(), "drained")
	c.ready(1, 5*time.Second)
}

// TestLastAttentionNodeDrains: running requests finish, new requests are refused.
func TestLastAttentionNodeDrains(t *testing.T) {
	c, nodes, _ := smallCluster(t, 1, longGrace)
	list := c.longRequests("decode")[:2]
	got := c.askAllWith(bounded(t), list, "decode", func() {
		nodes[0].stop(t)
		require.Eventually(t, func() bool { return c.refused(list[0]) != "" }, 5*time.Second, time.Millisecond)
		require.Contains(t, c.refused(list[0]), "no attention node is ready (about to stop: attention-0.")
	})
	nodes[0].ended(t, 10*time.Second)
	require.NoError(t, got.errs[0])
	require.NoError(t, got.errs[1])
}

// TestExpertNodeDrains: running requests finish with the node's experts, and new
// requests are refused until an expert node has joined in its place.
func TestExpertNodeDrains(t *testing.T) {
	c, _, expert := smallCluster(t, 1, longGrace)
	list := c.longRequests("decode")[:2]
	got := c.askAllWith(bounded(t), list, "decode", func() {
		expert.stop(t)
		require.Eventually(t, func() bool { return c.refused(list[0]) != "" }, 5*time.Second, time.Millisecond)
		require.Contains(t, c.refused(list[0]), "0 of 1 expert nodes are ready (about to stop: expert-0.")
	})
	expert.ended(t, 10*time.Second)
	require.NoError(t, got.errs[0])
	require.NoError(t, got.errs[1])
	require.Contains(t, c.refused(list[0]), "0 of 1 expert nodes are ready")
	c.node(nodeSpec{Role: "expert"})
	c.ready(1, 30*time.Second)
	again := c.askAll(bounded(t), list)
	require.NoError(t, again.errs[0])
	require.Equal(t, got.answers[0].bits(), again.answers[0].bits())
}

// TestGraceEnds stops nodes whose requests take longer than the grace: the requests end
// with an error that says why, and the nodes end in an orderly way.
func TestGraceEnds(t *testing.T) {
	for _, role := range []string{"attention", "expert"} {
		t.Run(role, func(t *testing.T) {
			c, nodes, p := smallCluster(t, 1, shortGrace)
			if role == "attention" {
				p = nodes[0]
			}
			list := c.longRequests("decode")
			got := c.askAllWith(bounded(t), list, "decode", func() { p.stop(t) })
			p.ended(t, 5*time.Second)
			for i, err := range got.errs {
				var unavailable *serve.UnavailableError
				require.ErrorAs(t, err, &unavailable, "request %d", i)
				require.Less(t, got.ended[i], errorWithin)
			}
			t.Log(got.errs[0])
			require.Contains(t, p.log.String(), "the grace is over")
		})
	}
}

// TestIdleNodesStopAtOnce: a node that no request needs ends without waiting for its
// grace, whether it is ready or waits for other nodes.
func TestIdleNodesStopAtOnce(t *testing.T) {
	c := startCluster(t, "", 2, 1)
	a, e := c.node(nodeSpec{Role: "attention", Grace: longGrace}), c.node(nodeSpec{Role: "expert", Grace: longGrace})
	require.Eventually(t, func() bool {
		view, _ := c.control.Members.View()
		return view.Missing() == "1 of 2 expert nodes are ready"
	}, 20*time.Second, 10*time.Millisecond)
	a.stop(t)
	e.stop(t)
	a.ended(t, 5*time.Second)
	e.ended(t, 5*time.Second)
	view, _ := c.control.Members.View()
	require.Empty(t, view.Members)
}
