package deploy_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// placementOf spreads the experts of a model over nodes: evenly where the seed is 0,
// else each layer in its own way, a third of the experts on two nodes or more.
func placementOf(m *deploy.Model, nodes int, seed uint64) route.Placement {
	p := route.Even(m.Spec.Sparse(), m.Spec.Router.Experts, nodes)
	if seed == 0 {
		return p
	}
	rng := rand.New(rand.NewPCG(seed, 2))
	for _, l := range m.Spec.SparseLayers() {
		homes := make(route.Homes, m.Spec.Router.Experts)
		for e := range homes {
			replicas := 1
			if rng.IntN(3) == 0 {
				replicas = 1 + rng.IntN(nodes)
			}
			homes[e] = slices.Sorted(slices.Values(rng.Perm(nodes)[:replicas]))
		}
		p.Layers[l] = homes
	}
	return p
}

// load submits the requests of the layouts test to a cluster again and again, several at
// a time, and compares each answer with the plain version's, until it is ended.
type load struct {
	answered atomic.Int64
	end      func()
}

func (c *testCluster) load(want []answer) *load {
	l := &load{}
	ctx, cancel := context.WithCancel(bounded(c.t))
	list := requests(c.opened.Spec.Vocabulary)
	var asking sync.WaitGroup
	for worker := range 4 {
		asking.Go(func() {
			for i := worker; ctx.Err() == nil; i = (i + 1) % len(list) {
				got, err := ask(ctx, c.control.Engine, list[i])
				switch {
				case ctx.Err() != nil:
				case err != nil || got.bits() != want[i].bits():
					c.t.Errorf("request %d: %v\nwant %s\ngot %s",
						i, err, want[i].bits(), got.bits())
					return
				default:
					l.answered.Add(1)
				}
			}
		})
	}
	l.end = func() {
		cancel()
		asking.Wait()
	}
	return l
}

// more waits until so many further requests have been answered.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	want := l.answered.Load() + n
	require.Eventually(t, func() bool { return l.answered.Load() >= want || t.Failed() }, 30*time.Second, time.Millisecond)
}

// TestPlacementChangesUnderLoad moves experts to other nodes while the cluster serves,
// with replicas and without: every answer is the plain version's, bit for bit, and nodes
// load the experts that they miss and free those that no placement in use needs.
func TestPlacementChangesUnderLoad(t *testing.T) {
	c := startCluster(t, "", 3, 2)
	want := plain(t, c.opened, numerics{})
	var experts []*process
	for range 3 {
		experts = append(experts, c.node(nodeSpec{Role: "expert"}))
	}
	for range 2 {
		c.node(nodeSpec{Role: "attention"})
	}
	c.ready(2, 30*time.Second)
	l := c.load(want)
	defer l.end()
	for version := uint64(2); version < 6; version++ {
		l.more(t, 4)
		require.NoError(t, c.control.Place(bounded(t), placementOf(c.opened, 3, version%4)))
		view, _ := c.control.Members.View()
		require.Equal(t, version, view.Placement.Version)
		for _, m := range view.Members {
			require.Equal(t, version, m.Placement, m.ID)
		}
	}
	l.more(t, 8)
	l.end()
	for _, p := range experts {
		require.Eventually(t, func() bool { return strings.Count(p.log.String(), "no longer needed") == 4 },
			10*time.Second, 10*time.Millisecond)
		require.Equal(t, 4, strings.Count(p.log.String(), "holds a new placement"))
	}
}

// TestPlaceRefuses: a placement that the cluster cannot use is refused with the reason,
// and changes nothing.
func TestPlaceRefuses(t *testing.T) {
	c := startCluster(t, "", 2, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for want, p := range map[string]route.Placement{
		"placement 1 is of 3 expert nodes, the cluster has 2": placementOf(c.opened, 3, 1),
		"placement 0: 0 nodes, want 1 to 1024":                {},
		"placement 1 is of 1 layers, the model has":           route.Even([]bool{true}, 4, 2),
	} {
		require.ErrorContains(t, c.control.Place(ctx, p), want)
	}
	err := c.control.Place(ctx, placementOf(c.opened, 2, 1))
	require.ErrorContains(t, err, "placement 2: 2 of 2 expert nodes are missing")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	view, _ := c.control.Members.View()
	require.Zero(t, view.Placement.Version)
	require.EqualValues(t, 2, view.Next.Version)

	partial := startClusterBy(t, "", 2, 1, route.Wire{Rows: kernel.RowF32, Combine: route.Partial})
	err = partial.control.Place(ctx, placementOf(c.opened, 2, 1))
	require.ErrorContains(t, err, "expert nodes return partial sums")
}

// TestFirstPlacementOfACluster: a front end whose options place experts on several nodes
// serves by that placement from the beginning.
func TestFirstPlacementOfACluster(t *testing.T) {
	n := numerics{wire: route.Wire{Combine: route.Partial}, experts: 2, replicas: 2}
	c := startClusterOf(t, "", func(m *deploy.Model, o *deploy.Options) {
		o.Experts, o.Wire, o.Placement = n.experts, n.wire, n.placementOf(m)
	})
	want := plain(t, c.opened, n)
	for _, role := range []string{"attention", "expert", "expert"} {
		c.node(nodeSpec{Role: role})
	}
	c.ready(1, 30*time.Second)
	l := c.load(want)
	l.more(t, int64(2*len(want)))
	l.end()
}
