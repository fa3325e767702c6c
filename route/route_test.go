package route

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tandem-moe/tandem/kernel"
)

// choicesOf encodes choices as kernel's TopK writes them.
func choicesOf(c []int) []byte {
	var b []byte
	for _, e := range c {
		b = binary.LittleEndian.AppendUint32(b, uint32(e))
	}
	return b
}

// draw makes a placement, some of whose experts live on several nodes, and the
// choices of a micro-batch.
func draw(t *rapid.T) (Placement, int, []int) {
	experts := rapid.IntRange(1, 12).Draw(t, "experts")
	p := Even(experts, rapid.IntRange(1, 6).Draw(t, "nodes"))
	for e := range p.Of {
		if n := rapid.IntRange(0, p.Nodes-1).Draw(t, "replica"); n != p.Of[e][0] && rapid.Bool().Draw(t, "replicate") {
			p.Of[e] = append(p.Of[e], n)
		}
	}
	k := rapid.IntRange(1, experts).Draw(t, "topK")
	var choices []int
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	for range rapid.IntRange(0, 20).Draw(t, "rows") {
		choices = append(choices, rng.Perm(experts)[:k]...)
	}
	return p, k, choices
}

// TestEveryChoiceIsServedOnce sends random micro-batches of several senders
// through split and group, and checks against the definition: each choice is
// one grouped row, at an expert that its node holds, fed by the right row, and
// its result comes back at the choice's place.
func TestEveryChoiceIsServedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, k, choices := draw(t)
		require.NoError(t, p.Validate())
		senders := rapid.IntRange(1, 3).Draw(t, "senders")
		rows := len(choices) / k
		seen := make([]int, senders*len(choices))
		for node := range p.Nodes {
			var messages []Pairs
			var packets []Packet
			for range senders {
				split, err := NewSplitter(p, k).Split(choicesOf(choices), rows)
				require.NoError(t, err)
				packets = append(packets, split[node])
				messages = append(messages, roundTrip(t, split[node]))
			}
			checkNode(t, p.Experts(node), packets, messages, choices, k, seen)
		}
		for i, n := range seen {
			require.Equal(t, 1, n, "choice %d", i)
		}
	})
}

func roundTrip(t *rapid.T, p Packet) Pairs {
	b := make([]byte, PairsSize(len(p.Row)))
	PutPairs(b, p)
	var pairs Pairs
	require.NoError(t, ReadPairs(&pairs, b, len(p.Rows), len(p.Row)))
	return pairs
}

func checkNode(t *rapid.T, experts []int, packets []Packet, messages []Pairs, choices []int, k int, seen []int) {
	grouper := NewGrouper(experts)
	for m, pairs := range messages {
		require.NoError(t, grouper.Check(pairs))
		for i, row := range packets[m].Rows {
			require.True(t, i == 0 || row > packets[m].Rows[i-1], "rows travel once and ascend")
		}
	}
	g := grouper.Group(messages)
	total := 0
	for m, packet := range packets {
		results := []int32{}
		for _, run := range g.Runs[m] {
			for r := range run.Rows {
				results = append(results, int32(run.From+r))
			}
		}
		require.Empty(t, cmp.Diff(g.Dst[m], results), "results return in the order of the pairs")
		for i, choice := range packet.Choice {
			require.EqualValues(t, choices[choice], packet.Expert[i])
			require.Equal(t, choice%int32(k), packet.Rank[i])
			require.Equal(t, packet.Rank[i], messages[m].Rank[i], "what travelled")
			require.Equal(t, choice/int32(k), packet.Rows[packet.Row[i]])
			require.Equal(t, choices[choice], experts[expertOf(g.Offsets, g.Dst[m][i])])
			seen[m*len(choices)+int(choice)]++
		}
		total += len(packet.Choice)
	}
	require.EqualValues(t, total, g.Offsets[len(experts)])
}

// expertOf finds the group of a grouped row, the slow way.
func expertOf(offsets []int32, row int32) int {
	for i := 1; i < len(offsets); i++ {
		if row < offsets[i] {
			return i - 1
		}
	}
	return -1
}

func TestSplitRefusesBadChoices(t *testing.T) {
	s := NewSplitter(Even(4, 2), 2)
	_, err := s.Split(choicesOf([]int{0, 4}), 1)
	require.ErrorContains(t, err, "row 0 chose expert 4 of 4")
	_, err = s.Split(choicesOf([]int{0}), 1)
	require.ErrorContains(t, err, "4 bytes of choices, want 8")
}

func TestCheckNamesThePair(t *testing.T) {
	g := NewGrouper([]int{2, 3})
	for want, p := range map[string]Pairs{
		"pair 1: expert 4 is not on this node":          {Rows: 1, Row: []int32{0, 0}, Expert: []int32{3, 4}},
		"pair 0: row 1 of 1":                            {Rows: 1, Row: []int32{1}, Expert: []int32{3}},
		"pair 1: expert 2, row 0 after expert 3, row 0": {Rows: 1, Row: []int32{0, 0}, Expert: []int32{3, 2}},
		"pair 1: expert 2, row 1 after expert 2, row 1": {Rows: 2, Row: []int32{1, 1}, Expert: []int32{2, 2}},
		"1 rows, 2 experts and 1 ranks":                 {Rows: 1, Row: []int32{0}, Expert: []int32{3, 2}},
	} {
		p.Rank = make([]int32, len(p.Row))
		require.ErrorContains(t, g.Check(p), want)
	}
}

func TestEvenCoversAllExperts(t *testing.T) {
	p := Even(7, 3)
	require.NoError(t, p.Validate())
	require.Equal(t, [][]int{{0, 1}, {2, 3}, {4, 5, 6}}, [][]int{p.Experts(0), p.Experts(1), p.Experts(2)})
	require.Empty(t, Even(1, 3).Experts(0))
	require.ErrorContains(t, Even(MaxExperts+1, 1).Validate(), "65537 experts, the limit is 65536")
	p.Of[3] = nil
	require.ErrorContains(t, p.Validate(), "expert 3 is on no node")
}

func FuzzHeader(f *testing.F) {
	whole := Header{Kind: Dispatch, MicroBatch: 2, Layer: 3, Step: 17, Placement: 1, Rows: 5, Pairs: 9, InFlight: 2}.Append(nil)
	f.Add(whole)
	f.Add(whole[:20])
	f.Add(Header{Kind: Return, Step: 1e6, Wire: Wire{Rows: kernel.RowInt8, Combine: Partial}}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			return
		}
		if again := h.Append(nil); !bytes.Equal(again, b) {
			t.Fatalf("%x encodes as %x", b, again)
		}
	})
}

// FuzzPairs: pairs that a node accepts can be grouped and summed, and are what
// was sent.
func FuzzPairs(f *testing.F) {
	packets, err := NewSplitter(Even(4, 1), 2).Split(choicesOf([]int{3, 1, 1, 0, 2, 3}), 3)
	if err != nil {
		f.Fatal(err)
	}
	whole := make([]byte, PairsSize(6))
	PutPairs(whole, packets[0])
	f.Add(whole, 3)
	f.Add(whole[:PairsSize(2)], 3)
	f.Add(whole[:5], 1)
	f.Fuzz(func(t *testing.T, b []byte, rows int) {
		var p Pairs
		n := len(b) / PairsSize(1)
		if rows < 0 || rows > 1<<10 || ReadPairs(&p, b, rows, n) != nil {
			return
		}
		if allocated := cap(p.Row) + cap(p.Expert) + cap(p.Rank); allocated > 3*n {
			t.Fatalf("%d elements for %d pairs", allocated, n)
		}
		g := NewGrouper([]int{0, 1, 2, 3})
		if g.Check(p) != nil {
			return
		}
		again := make([]byte, len(b))
		PutPairs(again, Packet{Row: p.Row, Expert: p.Expert, Rank: p.Rank})
		if !bytes.Equal(again, b) {
			t.Fatalf("%x encodes as %x", b, again)
		}
		messages := []Pairs{p, p}
		var s Sums
		s.ByRow(messages, g.Group(messages))
		if len(s.Results) != 2*n || len(s.Offsets) != 2*rows+1 {
			t.Fatalf("%d results of %d pairs, %d offsets of %d rows", len(s.Results), 2*n, len(s.Offsets), 2*rows)
		}
	})
}
