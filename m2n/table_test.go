package m2n

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandem-moe/tandem/internal/golden"
)

// sample is the pairs of an expert node: one that works, one that waits for credits, one
// that is lost, and one that is idle.
func sample() []PeerStats {
	times := func(d ...time.Duration) Histogram {
		var h histogram
		for _, d := range d {
			h.add(d)
		}
		return h.snapshot()
	}
	return []PeerStats{
		{
			Endpoint: "expert-1", Peer: "attention-10", Epoch: 12, Transport: "tcp", State: "up", Credit: 3,
			Why:  "tcp: shm: the peer is on another host",
			Sent: map[string]Traffic{"tcp": {1_234_567, 987_654_321_000}}, Received: map[string]Traffic{"tcp": {1_234_567, 123_456_789_000}},
			CreditWaits: 3, CreditTime: times(time.Millisecond, 2*time.Millisecond, 5*time.Millisecond),
			QueueTime: times(800*time.Nanosecond, 900*time.Nanosecond, time.Millisecond), WireTime: times(20*time.Microsecond, 30*time.Microsecond),
			TotalTime: times(21*time.Microsecond, 32*time.Microsecond), ReceiveTime: times(100*time.Microsecond, 3*time.Second),
			Connects: 1, Retransmits: 42,
		},
		{
			Endpoint: "expert-1", Peer: "attention-2", Epoch: 4, Transport: "shm", State: "up", Queued: 17, CreditWaits: 1,
			Sent: map[string]Traffic{"shm": {3, 100}, "inproc": {1, 1023}}, QueueTime: times(0, time.Hour),
			Connects: 2, Retries: 5, Losses: 1, DroppedOld: 7,
		},
		{Endpoint: "expert-1", Peer: "attention-1", Epoch: 2, State: "lost", Connects: 1, Losses: 1, Why: "tcp: shm: the peer is on another host"},
		{Endpoint: "expert-0", Peer: "attention-1", Epoch: 2, State: "idle"},
	}
}

// TestTable draws the sample, in another order than it is printed, and without
// the endpoints' names.
func TestTable(t *testing.T) {
	pairs := sample()
	var got bytes.Buffer
	require.NoError(t, WriteTable(&got, pairs))
	require.Equal(t, "attention-10", pairs[0].Peer, "the caller's order stays")
	for i := range pairs {
		pairs[i].Endpoint = ""
	}
	got.WriteString("\n")
	require.NoError(t, WriteTable(&got, pairs[:2]))
	got.WriteString("\n")
	require.NoError(t, WriteTable(&got, nil))
	golden.File(t, "table.txt", got.String())
}

// TestTableIsAligned whatever the values are: cells stand below their headings.
func TestTableIsAligned(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var pairs []PeerStats
		for range rapid.IntRange(1, 5).Draw(t, "pairs") {
			n := rapid.Uint64()
			pairs = append(pairs, PeerStats{
				Peer: rapid.StringMatching(`[a-zä]{1,12}-\d{1,3}`).Draw(t, "peer"), State: "up", Epoch: n.Draw(t, "epoch"),
				Sent:       map[string]Traffic{"tcp": {n.Draw(t, "messages") >> 1, n.Draw(t, "bytes")}},
				CreditTime: Histogram{Count: 1, Sum: time.Duration(n.Draw(t, "waited") >> 1)},
			})
		}
		g := newGrid(pairs)
		for i := range g.columns {
			for _, cell := range g.cells[i][1:] {
				require.LessOrEqual(t, len([]rune(cell)), g.widths[i])
			}
		}
		full := len([]rune(g.line(1)))
		for at := range len(pairs) {
			require.Len(t, []rune(g.line(headings+at)), full, "the last column is aligned right")
		}
	})
}

// TestTableReportsAnError of writing.
func TestTableReportsAnError(t *testing.T) {
	full := errors.New("disk is full")
	require.ErrorIs(t, WriteTable(failing{full}, sample()), full)
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// TestJSON: what is written is read again, and is what other programs read.
func TestJSON(t *testing.T) {
	text, err := json.MarshalIndent(sample(), "", "  ")
	require.NoError(t, err)
	golden.File(t, "stats.json", string(text)+"\n")
	var read []PeerStats
	require.NoError(t, json.Unmarshal(text, &read))
	require.Equal(t, sample(), read)
}

func TestHistogramJSONRefuses(t *testing.T) {
	for text, says := range map[string]string{
		`{"count":1,"sum_ns":1,"buckets":[{"below_ns":3,"count":1}]}`:             "3 ns is no bucket's bound",
		`{"count":1,"sum_ns":1,"buckets":[{"below_ns":0,"count":1}]}`:             "0 ns is no bucket's bound",
		`{"count":1,"sum_ns":1,"buckets":[{"below_ns":-4,"count":1}]}`:            "-4 ns is no bucket's bound",
		`{"count":1,"sum_ns":1,"buckets":[{"below_ns":1099511627776,"count":1}]}`: "at most 549755813888",
		`{"count":2,"sum_ns":1,"buckets":[{"below_ns":4,"count":1}]}`:             "the buckets hold 1, the count says 2",
		`{"count":"x"}`: "cannot unmarshal",
	} {
		var h Histogram
		require.ErrorContains(t, json.Unmarshal([]byte(text), &h), says)
		require.Zero(t, h)
	}
}

// FuzzHistogramJSON: what is accepted is written as it was understood.
func FuzzHistogramJSON(f *testing.F) {
	for _, p := range sample() {
		text, err := json.Marshal(p.QueueTime)
		require.NoError(f, err)
		f.Add(text)
		f.Add(text[:len(text)/2])
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var h, again Histogram
		if json.Unmarshal(text, &h) != nil {
			return
		}
		written, err := json.Marshal(h)
		require.NoError(t, err)
		require.LessOrEqual(t, len(written), 64*(Buckets+1), "there are no more buckets than that")
		require.NoError(t, json.Unmarshal(written, &again))
		require.Equal(t, h, again)
	})
}

// TestHistogramEqualsCounting compares with the durations themselves.
func TestHistogramEqualsCounting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ds := rapid.SliceOf(rapid.Int64Range(-5, int64(time.Minute))).Draw(t, "durations")
		var h histogram
		var sum time.Duration
		for i, d := range ds {
			h.add(time.Duration(d))
			ds[i] = max(d, 0)
			sum += time.Duration(ds[i])
		}
		s := h.snapshot()
		require.Equal(t, uint64(len(ds)), s.Count)
		require.Equal(t, sum, s.Sum)
		if len(ds) == 0 {
			require.Zero(t, s.Quantile(0.5))
			require.Zero(t, s.Mean())
			return
		}
		slices.Sort(ds)
		for _, q := range []float64{0, 0.5, 0.99, 1} {
			exact := ds[min(int(q*float64(len(ds))), len(ds)-1)]
			got := int64(s.Quantile(q))
			require.Less(t, exact, got)
			require.LessOrEqual(t, got, max(2*exact, 1), "of %v", ds)
		}
	})
}

// TestCounters: each lands where it belongs, and a message's queue and wire are
// its total.
func TestCounters(t *testing.T) {
	var c counters
	now := time.Now()
	posted, taken := now.Add(-3*time.Second), now.Add(-2*time.Second)
	c.queueTime.add(taken.Sub(posted))
	c.noteSent(posted, taken)
	c.handedOut(posted)
	c.creditTime.add(time.Second)
	c.retries.Add(2)
	c.retransmits.Add(3)
	c.sent[viaUCX].add(5)
	c.received[viaSHM].add(7)
	s := c.snapshot()
	require.Equal(t, map[string]Traffic{"ucx": {1, 5}}, s.Sent)
	require.Equal(t, map[string]Traffic{"shm": {1, 7}}, s.Received)
	require.InDelta(t, s.TotalTime.Sum, s.QueueTime.Sum+s.WireTime.Sum, 1)
	require.GreaterOrEqual(t, s.TotalTime.Sum, 3*time.Second)
	require.Equal(t, uint64(1), s.ReceiveTime.Count)
	require.GreaterOrEqual(t, s.ReceiveTime.Sum, 3*time.Second)
	require.Equal(t, time.Second, s.CreditTime.Sum)
	require.EqualValues(t, 2, s.Retries)
	require.EqualValues(t, 3, s.Retransmits)
	require.Equal(t, Traffic{3, 8}, Total(map[string]Traffic{"tcp": {1, 5}, "shm": {2, 3}}))
}

// TestNatural is an order, and people's.
func TestNatural(t *testing.T) {
	names := strings.Fields("a a0 a00 a1 a2 a10 a10b a10b1 a11 b expert-1 expert-2 expert-10 expert-a")
	for i, a := range names {
		for j, b := range names {
			require.Equal(t, cmp.Compare(i, j), natural(a, b), "%s %s", a, b)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a01-]{0,5}`)
		a, b, c := name.Draw(t, "a"), name.Draw(t, "b"), name.Draw(t, "c")
		require.Equal(t, a == b, natural(a, b) == 0)
		require.Equal(t, natural(a, b), -natural(b, a))
		if natural(a, b) < 0 && natural(b, c) < 0 {
			require.Negative(t, natural(a, c))
		}
	})
}

func TestUnits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 1: "1 ns", 999: "999 ns", 1024: "1.02 µs", 16384: "16.4 µs", 524288: "524 µs",
		1500 * time.Microsecond: "1.50 ms", time.Minute: "60.0 s", 2 * time.Hour: "7200 s",
	} {
		require.Equal(t, want, span(d))
	}
	for n, want := range map[uint64]string{
		0: "0 B", 999: "999 B", 1000: "0.98 KiB", 1024: "1.00 KiB", 10240: "10.0 KiB", 1 << 20: "1.00 MiB", 1<<64 - 1: "16.0 EiB",
	} {
		require.Equal(t, want, size(n))
	}
}
