package deploy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// traffic has the bytes of message bodies that an attention node sends and receives, and
// the number of rows that it computes.
type traffic struct{ sent, received, rows uint64 }

// trafficOf reads the statistics of a deployment's attention node.
func trafficOf(l *deploy.Local) (t traffic) {
	for _, s := range l.Stats() {
		if s.Role != cluster.Attention {
			continue
		}
		t.rows = s.Rows
		for _, p := range s.Peers {
			out, in := m2n.Total(p.Sent), m2n.Total(p.Received)
			t.sent += out.Bytes - out.Messages*route.HeaderSize
			t.received += in.Bytes - in.Messages*route.HeaderSize
		}
	}
	return t
}

// perPair is the bytes that are sent with a row for each of its experts: the gate weight,
// and the entry of row and expert in the list of pairs.
const perPair = 4 + 10

// TestBytesOnTheWire: the transports count the bytes that the wire format should take.
func TestBytesOnTheWire(t *testing.T) {
	m, err := deploy.OpenModel("")
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	layers, k, hidden := uint64(len(m.Spec.SparseLayers())), uint64(m.Spec.Router.TopK), m.Spec.Hidden
	width := map[kernel.RowFormat]uint64{
		kernel.RowF32: uint64(4 * hidden), kernel.RowBF16: uint64(2 * hidden), kernel.RowInt8: uint64(hidden + 4),
	}
	for rows, width := range width {
		for _, combine := range []route.Combine{route.ByExpert, route.Partial} {
			w := route.Wire{Rows: rows, Combine: combine}
			for _, experts := range []int{1, 3} {
				t.Run(fmt.Sprintf("%v, %d nodes", w, experts), func(t *testing.T) {
					l := start(t, "", deploy.Options{Experts: experts, Transport: "tcp", Wire: w, MaxModelLen: 64, KVMemory: 1 << 20})
					_, err := ask(bounded(t), l.Engine, small(20))
					require.NoError(t, err)
					var got traffic
					const rows = 3 + 20 - 1 // the last token is not fed
					pairs := rows * layers * k
					require.Eventually(t, func() bool {
						got = trafficOf(l)
						return got.rows == rows && got.received == returned(w, got, pairs, width)
					}, 5*time.Second, time.Millisecond)
					if experts == 1 {
						require.Equal(t, rows*layers*width+pairs*perPair, got.sent)
					}
				})
			}
		}
	}
}

// perResult is what travels back with a result: where it belongs.
const perResult = 4

// returned is the bytes of results: one for each pair, or for each row that
// travelled.
func returned(w route.Wire, t traffic, pairs, width uint64) uint64 {
	if w.Combine == route.Partial {
		rows := (t.sent - pairs*perPair) / width
		return rows * (width + perResult)
	}
	return pairs * (width + perResult)
}

// TestPartialSumsDependOnThePlacementAlone serves the same requests with the
// same expert nodes, and the same experts on them, and everything else at random: one
// answer. Another placement gives others.
func TestPartialSumsDependOnThePlacementAlone(t *testing.T) {
	dir := models(t)[0]
	m, err := deploy.OpenModel(dir)
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	answers := map[numerics][]answer{}
	for _, seed := range seeds() {
		l := drawLayout(seed, len(requests(m.Spec.Vocabulary)))
		l.wire = route.Wire{Combine: route.Partial}
		for _, place := range []numerics{{experts: 1}, {experts: 2}, {experts: 2, replicas: 1}} {
			l.experts, l.replicas = place.experts, place.replicas
			got, _ := l.run(t, m)
			if answers[place] == nil {
				answers[place] = got
			}
			l.compare(t, dir, answers[place], got)
		}
	}
	differ := func(a, b numerics) (n int) {
		for i := range answers[a] {
			if answers[a][i].bits() != answers[b][i].bits() {
				n++
			}
		}
		return n
	}
	require.Positive(t, differ(numerics{experts: 1}, numerics{experts: 2}), "answers that depend on the number of nodes")
	require.Positive(t, differ(numerics{experts: 2}, numerics{experts: 2, replicas: 1}), "answers that depend on the replicas")
}

// TestNumericsNameTheWire: the numerics, by which cached pages are known, name the wire.
func TestNumericsNameTheWire(t *testing.T) {
	o := deploy.Options{Experts: 2}
	require.Equal(t, "f32 (kv f32, span 256), wire f32, combine expert", o.Numerics())
	o.Wire = route.Wire{Rows: kernel.RowInt8, Combine: route.Partial}
	require.Equal(t, "f32 (kv f32, span 256), wire int8, combine partial over 2 expert nodes", o.Numerics())
	m, err := deploy.OpenModel("")
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	o.Placement = placementOf(m, 2, 0)
	require.Equal(t, "f32 (kv f32, span 256), wire int8, combine partial over 2 expert nodes", o.Numerics())
	o.Placement = placementOf(m, 2, 1)
	require.Regexp(t, `over 2 expert nodes placed as [0-9a-f]{16}$`, o.Numerics())
	_, err = deploy.StartLocal(t.Context(), m, deploy.Options{Experts: 3, Placement: o.Placement}, nil)
	require.ErrorContains(t, err, "placement 1 is of 2 expert nodes, the cluster has 3")
	_, err = deploy.StartLocal(t.Context(), m, deploy.Options{Wire: route.Wire{Rows: 7}}, nil)
	require.ErrorContains(t, err, "rows travel in the unknown format 7")
}
