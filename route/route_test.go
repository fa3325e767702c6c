package route

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
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

// drawn is a placement, some of whose experts live on several nodes, and what the
// router of one of its layers has chosen for a micro-batch.
type drawn struct {
	Placement
	layer, topK, rows int
	choices           []int
	gates             []byte
	combine           Combine
}

func draw(t *rapid.T) drawn {
	experts := rapid.IntRange(1, 12).Draw(t, "experts")
	d := drawn{Placement: drawPlacement(t, experts), layer: 1 + rapid.IntRange(0, 1).Draw(t, "layer")}
	d.topK = rapid.IntRange(1, experts).Draw(t, "topK")
	d.combine = rapid.SampledFrom([]Combine{ByExpert, Partial}).Draw(t, "combine")
	d.rows = rapid.IntRange(0, 20).Draw(t, "rows")
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	for range d.rows {
		d.choices = append(d.choices, rng.Perm(experts)[:d.topK]...)
	}
	d.gates = randomGates(rng, len(d.choices))
	return d
}

// drawPlacement makes one of two different sparse layers after a dense one.
func drawPlacement(t *rapid.T, experts int) Placement {
	p := Even([]bool{false, true, true}, experts, rapid.IntRange(1, 6).Draw(t, "nodes"))
	p.Version = rapid.Uint64().Draw(t, "version")
	p.Layers[2] = slices.Clone(p.Layers[2])
	for e := range p.Layers[2] {
		home, n := p.Layers[2][e][0], rapid.IntRange(0, p.Nodes-1).Draw(t, "replica")
		if n != home && rapid.Bool().Draw(t, "replicate") {
			p.Layers[2][e] = []int{min(home, n), max(home, n)}
		}
	}
	return p
}

// randomGates are n gate weights as kernel's TopK writes them.
func randomGates(rng *rand.Rand, n int) []byte {
	var b []byte
	for range n {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(rng.Float32()))
	}
	return b
}

// split splits the micro-batch.
func (d drawn) split(t require.TestingT) []Packet {
	packets, err := NewSplitter(d.Placement, d.topK, d.combine).Split(d.layer, choicesOf(d.choices), d.gates, d.rows)
	require.NoError(t, err)
	return packets
}

// experts are those of the layer on a node.
func (d drawn) experts(node int) []int { return d.Experts(node)[d.layer] }

// TestEveryChoiceIsServedOnce sends random micro-batches of several senders
// through split and group, and checks against the definition: each choice is
// one grouped row, at an expert that its node holds, fed by the right row, and
// its result comes back at the choice's place.
func TestEveryChoiceIsServedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t)
		require.NoError(t, d.Validate())
		senders := rapid.IntRange(1, 3).Draw(t, "senders")
		seen := make([]int, senders*len(d.choices))
		for node := range d.Nodes {
			var messages []Pairs
			var packets []Packet
			for range senders {
				packet := d.split(t)[node]
				packets = append(packets, packet)
				messages = append(messages, roundTrip(t, packet))
			}
			checkNode(t, d.experts(node), packets, messages, d.choices, d.topK, seen)
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
			require.Equal(t, choice, messages[m].Place[i], "what travelled")
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

// sparse is n sparse layers.
func sparse(n int) []bool { return slices.Repeat([]bool{true}, n) }

func TestSplitRefusesBadChoices(t *testing.T) {
	s := NewSplitter(Even(sparse(1), 4, 2), 2, ByExpert)
	_, err := s.Split(0, choicesOf([]int{0, 4}), make([]byte, 8), 1)
	require.ErrorContains(t, err, "row 0 chose expert 4 of 4 in layer 0")
	_, err = s.Split(0, choicesOf([]int{0}), make([]byte, 8), 1)
	require.ErrorContains(t, err, "4 bytes of choices and 8 of gate weights, want 8")
}

func TestCheckNamesThePair(t *testing.T) {
	g := NewGrouper([]int{2, 3})
	for want, p := range map[string]Pairs{
		"pair 1: expert 4 is not on this node":          {Rows: 1, Row: []int32{0, 0}, Expert: []int32{3, 4}},
		"pair 0: expert 0 is not on this node":          {Rows: 1, Row: []int32{0}, Expert: []int32{0}},
		"pair 0: row 1 of 1":                            {Rows: 1, Row: []int32{1}, Expert: []int32{3}},
		"pair 1: expert 2, row 0 after expert 3, row 0": {Rows: 1, Row: []int32{0, 0}, Expert: []int32{3, 2}},
		"pair 1: expert 2, row 1 after expert 2, row 1": {Rows: 2, Row: []int32{1, 1}, Expert: []int32{2, 2}},
		"1 rows, 2 experts and 1 places":                {Rows: 1, Row: []int32{0}, Expert: []int32{3, 2}},
		"row 1 of 3 has no pair":                        {Rows: 3, Row: []int32{0, 2}, Expert: []int32{2, 3}},
	} {
		p.Place = make([]int32, len(p.Row))
		require.ErrorContains(t, g.Check(p), want)
	}
}

func FuzzHeader(f *testing.F) {
	whole := Header{
		Kind: Dispatch, MicroBatch: 2, Layer: 3, Step: 17, Placement: 1, Rows: 5, Pairs: 9, InFlight: 2,
		ReturnTo: 7, Residual: true,
	}.Append(nil)
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
	split := NewSplitter(Even(sparse(1), 4, 1), 2, Partial)
	packets, err := split.Split(0, choicesOf([]int{3, 1, 1, 0, 2, 3}), make([]byte, 24), 3)
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
		if allocated := cap(p.Row) + cap(p.Expert) + cap(p.Place); allocated > 3*n {
			t.Fatalf("%d elements for %d pairs", allocated, n)
		}
		g := NewGrouper([]int{0, 1, 2, 3})
		if g.Check(p) != nil {
			return
		}
		again := make([]byte, len(b))
		PutPairs(again, Packet{Row: p.Row, Expert: p.Expert, Choice: p.Place})
		if !bytes.Equal(again, b) {
			t.Fatalf("%x encodes as %x", b, again)
		}
		messages := []Pairs{p, p}
		var s Sums
		s.ByRow(messages, g.Group(messages))
		if len(s.Results) != 2*n || len(s.Offsets) != 2*rows+1 {
			t.Fatalf("%d results of %d pairs, %d offsets of %d rows", len(s.Results), 2*n, len(s.Offsets), 2*rows)
		}
		for r, place := range s.Places() {
			if best := bestPlace(p, r%max(1, rows)); place != best {
				t.Fatalf("the sum of row %d is for place %d, its best result for %d", r, place, best)
			}
		}
	})
}

// bestPlace is the lowest place of a row's pairs.
func bestPlace(p Pairs, row int) int32 {
	best := int32(math.MaxInt32)
	for i, r := range p.Row {
		if int(r) == row {
			best = min(best, p.Place[i])
		}
	}
	return best
}

// TestToSender: what only training asks for is refused by name.
func TestToSender(t *testing.T) {
	require.NoError(t, Header{Kind: Dispatch}.ToSender())
	require.EqualError(t, Header{ReturnTo: 7}.ToSender(),
		"return address 7: this node returns results to their sender alone")
	require.EqualError(t, Header{Residual: true}.ToSender(),
		"the residual stream travels with the rows: this node leaves it with their sender")
	b := Header{Kind: Dispatch}.Append(nil)
	b[42] = 3
	_, err := ParseHeader(b)
	require.EqualError(t, err, "message header: flags 0x3, of which 0x2 are unknown")
}
