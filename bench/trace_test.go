package bench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/serve/gather"
	"github.com/tandem-moe/tandem/serve/node"
	"github.com/tandem-moe/tandem/telemetry/histogram"
)

// traceOf makes a trace of times in milliseconds.
func traceOf(at ...[]int) *trace {
	t := newTrace(len(at))
	for i, times := range at {
		for k, ms := range times {
			t.add(i, int32(k), time.Duration(ms)*time.Millisecond)
		}
	}
	return &t
}

// TestRatesCountWhileAllDecode: the second sequence begins at 300 ms, the first
// ends at 500 ms; in between each has two tokens.
func TestRatesCountWhileAllDecode(t *testing.T) {
	tr := traceOf([]int{100, 200, 300, 400, 500}, []int{300, 400, 500, 600, 700})
	prompt, decode, err := tr.rates(30)
	require.NoError(t, err)
	require.InDelta(t, 30/0.3, prompt, 1e-9)
	require.InDelta(t, 4/0.2, decode, 1e-9)
}

func TestRatesRefuseSequencesThatNeverMeet(t *testing.T) {
	_, _, err := traceOf([]int{100, 200}, []int{200, 300}).rates(30)
	require.ErrorContains(t, err, "never decoded together")
}

func TestSameNamesTheSequence(t *testing.T) {
	a, b := traceOf([]int{1, 2}, []int{1, 2}), traceOf([]int{3, 4}, []int{3, 4})
	require.NoError(t, a.same(b))
	b.tokens[1][1] = 7
	require.ErrorContains(t, a.same(b), "sequence 1")
}

// observe is a histogram of values.
func observe(values ...float64) histogram.Snapshot {
	h := histogram.New(histogram.Powers(4)...)
	for _, v := range values {
		h.Observe(v)
	}
	return h.Snapshot()
}

// TestPhaseIsADifference: what was counted before the phase is in none of its
// figures.
func TestPhaseIsADifference(t *testing.T) {
	before := []node.Stats{
		{Role: cluster.Attention, Busy: 9 * time.Second, Wall: 9 * time.Second, Compute: observe(8), Transfer: observe(), Attention: node.Attention{Rows: 5}},
		{Role: cluster.Attention, Compute: observe(), Transfer: observe()},
		{Role: cluster.Expert, Compute: observe(8), Transfer: observe(8), Expert: node.Expert{RowsPerExpert: observe(8), Gather: gather.Counters{Runs: 7, Messages: 7}}},
	}
	after := []node.Stats{
		{Role: cluster.Attention, Busy: 10 * time.Second, Wall: 11 * time.Second, Compute: observe(8, 1), Transfer: observe(1), Attention: node.Attention{Rows: 8}},
		{Role: cluster.Attention, Busy: 2 * time.Second, Wall: 2 * time.Second, Compute: observe(2, 3), Transfer: observe(2), Attention: node.Attention{Rows: 4}},
		{Role: cluster.Expert, Busy: 1 * time.Second, Wall: 4 * time.Second, Compute: observe(8, 4), Transfer: observe(8, 6),
			Expert: node.Expert{RowsPerExpert: observe(8, 2, 4), Gather: gather.Counters{Runs: 9, Messages: 10}}},
	}
	require.Equal(t, phase{
		attention: 2, expert: 4, transfer: 3,
		attentionBubble: 0.25, expertBubble: 0.75,
		aggregation: 1.5, rowsPerExpert: 3, least: 3, most: 4,
	}, newPhase(before, after))
}
