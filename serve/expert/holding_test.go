package expert_test

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/node/nodetest"
)

// logged is a log that a test reads.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// away is a placement of version v by which the node, which is at place 0, has no expert
// but those given.
func away(m *nodetest.Model, v uint64, here ...int) route.Placement {
	p := route.Even(m.Spec.Sparse(), m.Spec.Router.Experts, 2)
	p.Version = v
	homes := make(route.Homes, m.Spec.Router.Experts)
	for e := range homes {
		homes[e] = []int{1}
	}
	for _, e := range here {
		homes[e] = []int{0}
	}
	for _, l := range m.Spec.SparseLayers() {
		p.Layers[l] = homes
	}
	return p
}

// ask posts a dispatch of one row for expert 0 of the next layer, with a changed header.
func (p *peer) ask(change func(*route.Header)) {
	h := route.Header{Kind: route.Dispatch, InFlight: 1, Placement: 1, Step: 1, Layer: p.layer, Rows: 1, Pairs: 1}
	p.layer++
	change(&h)
	_, err := p.ep.Post("expert", m2n.Message{Header: h.Append(nil), Body: p.body})
	require.NoError(p.t, err)
}

// inPhase has all peers past the first layer: the node holds one's message for the next
// layer back for the others.
func inPhase(peers []*peer) {
	for _, p := range peers {
		p.post(route.Status)
	}
	for _, p := range peers {
		p.post(route.Dispatch)
	}
	for _, p := range peers {
		p.ep.Release(p.answer())
	}
}

// TestExpertRefusesByName: a dispatch that the node cannot serve is its sender's loss,
// the log names what is wrong with both values, and others are served.
func TestExpertRefusesByName(t *testing.T) {
	for want, change := range map[string]func(*route.Header){
		"split by placement 3, this node has [1 2]":                       func(h *route.Header) { h.Placement = 3 },
		"placement 2: pair 0: expert 0 is not on this node":               func(h *route.Header) { h.Placement = 2 },
		"layer 4000 has no experts":                                       func(h *route.Header) { h.Layer = 4000 },
		"return address 7: this node returns results to their sender":     func(h *route.Header) { h.ReturnTo = 7 },
		"the residual stream travels with the rows: this node leaves it ": func(h *route.Header) { h.Residual = true },
	} {
		var log logged
		n, peers, m := startExpertOf(t, 0, slog.New(slog.NewTextHandler(&log, nil)), same)
		n.Hold(away(m, 2, 1), m.Experts)
		peers[0].ask(change)
		require.Eventually(t, func() bool { return bytes.Contains([]byte(log.String()), []byte(want)) },
			10*time.Second, time.Millisecond, "%s", want)
		peers[1].post(route.Dispatch)
		peers[1].ep.Release(peers[1].answer())
	}
}

// TestVersionsRunTogether: messages by two placements run in one call, and each has its
// result where it says.
func TestVersionsRunTogether(t *testing.T) {
	n, peers, m := startExpertOf(t, 10*time.Second, slog.New(slog.DiscardHandler), same)
	n.Hold(away(m, 2, 0, 2), m.Experts)
	inPhase(peers)
	before := n.Stats().Gather
	peers[0].ask(func(*route.Header) {})
	peers[1].ask(func(h *route.Header) { h.Placement = 2 })
	for i, p := range peers {
		c := p.answer()
		h, err := route.ParseHeader(c.Header)
		require.NoError(t, err)
		require.EqualValues(t, 1+i, h.Placement, "the version of the dispatch")
		require.Len(t, c.Body, 2)
		require.Equal(t, []byte{0, 0, 0, 0}, c.Body[1].Bytes(), "the place of choice 0")
		p.ep.Release(c)
	}
	after := n.Stats().Gather
	require.Equal(t, [2]int{2, 1}, [2]int{after.Messages - before.Messages, after.Runs - before.Runs})
}

// TestRetireWaitsForWhatIsTaken: a version is given up once its messages are through;
// then it is refused, and what only it wanted can be given back.
func TestRetireWaitsForWhatIsTaken(t *testing.T) {
	var log logged
	n, peers, m := startExpertOf(t, time.Second, slog.New(slog.NewTextHandler(&log, nil)), same)
	n.Hold(away(m, 2, 1), m.Experts)
	inPhase(peers)
	peers[0].ask(func(*route.Header) {}) // held back for the other peer
	require.Eventually(t, func() bool { return n.Stats().Transfer.Count() == 3 }, 5*time.Second, time.Millisecond)
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, n.Retire(soon, 1, m.Experts), context.DeadlineExceeded)
	peers[0].ep.Release(peers[0].answer())
	require.EqualError(t, n.Retire(t.Context(), 1, m.Experts), "placement 1 is not held")
	peers[1].ask(func(*route.Header) {})
	require.Eventually(t, func() bool {
		return bytes.Contains([]byte(log.String()), []byte("split by placement 1, this node has [2]"))
	}, 5*time.Second, time.Millisecond)
}
