package deploy_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/serve"
)

// sixteen returns 16 requests, which together take several hundred steps.
func (c *testCluster) sixteen() []serve.Request {
	var list []serve.Request
	for i := range 16 {
		r := serve.Request{MaxTokens: 60 + 5*i, Logprobs: i%3 - 1, PromptLogprobs: -1}
		for j := range 4 + 9*i {
			r.Prompt = append(r.Prompt, int32((i*977+j*31)%(c.opened.Spec.Vocabulary-1)+1))
		}
		if i%2 == 1 {
			r.Sampling.Temperature, r.Sampling.Seed = 1, uint64(i)
		}
		if i%5 == 0 {
			r.PromptLogprobs = 1
		}
		list = append(list, r)
	}
	return list
}

// TestExpertNodesAreReplaced kills expert nodes under load, in several ways, and starts
// others: all requests end with the tokens and log-probabilities of an undisturbed run,
// and the attention nodes keep their memberships.
func TestExpertNodesAreReplaced(t *testing.T) {
	if testing.Short() {
		t.Skip("several processes per case")
	}
	for name, kill := range map[string]func(c *testCluster, experts []*process){
		"one": func(c *testCluster, experts []*process) {
			c.kill(experts[1])
			c.node(nodeSpec{Role: "expert"})
		},
		"both": func(c *testCluster, experts []*process) {
			c.kill(experts...)
			c.node(nodeSpec{Role: "expert"})
			c.node(nodeSpec{Role: "expert"})
		},
		"one while another joins": func(c *testCluster, experts []*process) {
			c.kill(experts[0])
			c.node(nodeSpec{Role: "expert"}).logs(c.t, "msg=joined")
			c.kill(experts[1])
			c.node(nodeSpec{Role: "expert"})
		},
		"the one that came": func(c *testCluster, experts []*process) {
			c.kill(experts[0])
			second := c.node(nodeSpec{Role: "expert"})
			second.logs(c.t, "an attention node is connected")
			c.kill(second)
			third := c.node(nodeSpec{Role: "expert"})
			third.logs(c.t, "msg=joined")
			c.kill(third)
			c.node(nodeSpec{Role: "expert"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, "", 2, 2)
			attention := []*process{c.node(nodeSpec{Role: "attention"}), c.node(nodeSpec{Role: "attention"})}
			experts := []*process{c.node(nodeSpec{Role: "expert"}), c.node(nodeSpec{Role: "expert"})}
			c.ready(2, 30*time.Second)
			ctx, list, before := bounded(t), c.sixteen(), c.ids(cluster.Attention)
			want := c.askAll(ctx, list)
			var killing sync.WaitGroup
			got := c.askAllWith(ctx, list, "decode", func() { killing.Go(func() { kill(c, experts) }) })
			killing.Wait()
			for i := range list {
				require.NoError(t, want.errs[i])
				require.NoError(t, got.errs[i], "request %d", i)
				require.Equal(t, want.answers[i].bits(), got.answers[i].bits(), "request %d", i)
			}
			require.Equal(t, before, c.ids(cluster.Attention))
			for _, p := range attention {
				require.Contains(t, p.log.String(), "an expert node is lost")
				require.Equal(t, 1, strings.Count(p.log.String(), "msg=joined"))
			}
		})
	}
}

// kill kills processes, which so cannot say goodbye.
func (c *testCluster) kill(nodes ...*process) {
	for _, p := range nodes {
		_ = p.Process.Kill()
	}
	for _, p := range nodes {
		<-p.done
	}
}

// TestNoExpertNodeComes: requests that have waited for ExpertWait end with an error that
// names the lost node; meanwhile new requests are refused. The attention node stays: it
// serves as soon as there is an expert node again, without loading its weights again.
func TestNoExpertNodeComes(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "", 1, 2)
	attention := c.node(nodeSpec{Role: "attention", ExpertWait: time.Second})
	expert := c.node(nodeSpec{Role: "expert"})
	c.ready(1, 30*time.Second)
	ctx, list, before := bounded(t), c.longRequests("decode"), c.ids(cluster.Attention)
	want := c.askAll(ctx, list)
	got := c.askAllWith(ctx, list, "decode", func() {
		c.kill(expert)
		require.Eventually(t, func() bool { return c.refused(list[0]) != "" }, 5*time.Second, time.Millisecond)
		require.Contains(t, c.refused(list[0]), "0 of 1 expert nodes are ready")
	})
	for i, err := range got.errs {
		var unavailable *serve.UnavailableError
		require.ErrorAs(t, err, &unavailable, "request %d", i)
		require.Regexp(t, `^expert node expert-0 is lost: .*; after 1s there is none in its place that this node reaches; the request may be sent again$`, numbered(err.Error()))
		require.Greater(t, got.ended[i], 900*time.Millisecond)
	}
	c.node(nodeSpec{Role: "expert"})
	c.ready(1, 30*time.Second)
	again := c.askAll(ctx, list)
	for i := range list {
		require.NoError(t, again.errs[i])
		require.Equal(t, want.answers[i].bits(), again.answers[i].bits(), "request %d", i)
	}
	require.Equal(t, before, c.ids(cluster.Attention))
	require.Equal(t, 1, strings.Count(attention.log.String(), "msg=joined"))
}
