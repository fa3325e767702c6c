package route

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestEvenCoversAllExperts(t *testing.T) {
	p := Even([]bool{true, false}, 7, 3)
	require.NoError(t, p.Validate())
	require.EqualValues(t, 1, p.Version)
	require.Equal(t, [][]int{{0, 1}, nil}, p.Experts(0))
	require.Equal(t, [][]int{{2, 3}, nil}, p.Experts(1))
	require.Equal(t, [][]int{{4, 5, 6}, nil}, p.Experts(2))
	require.Equal(t, [][]int{nil}, Even(sparse(1), 1, 3).Experts(0))
}

func TestPlacementIsValidated(t *testing.T) {
	for want, p := range map[string]Placement{
		"placement 4: 0 nodes, want 1 to 1024":                                    {},
		"placement 4: 1025 nodes, want 1 to 1024":                                 {Nodes: 1025},
		"placement 4: 65537 layers, the limit is 65536":                           {Nodes: 1, Layers: make([]Homes, MaxLayers+1)},
		"placement 4: layer 0: 65537 experts, the limit is 65536":                 Even(sparse(1), MaxExperts+1, 1),
		"placement 4: layer 1: expert 1 is on no node":                            {Nodes: 1, Layers: []Homes{nil, {{0}, nil}}},
		"placement 4: layer 0: expert 0 is on node 2, there are 2 nodes":          {Nodes: 2, Layers: []Homes{{{2}}}},
		"placement 4: layer 0: expert 0 is on node 1 after node 1, want them asc": {Nodes: 2, Layers: []Homes{{{1, 1}}}},
	} {
		p.Version = 4
		require.ErrorContains(t, p.Validate(), want)
	}
}

func TestPlacementFitsTheModel(t *testing.T) {
	p := Even([]bool{true, false}, 7, 3)
	require.NoError(t, p.Fits([]bool{true, false}, 7, 3))
	require.EqualError(t, p.Fits([]bool{true, false}, 7, 2), "placement 1 is of 3 expert nodes, the cluster has 2")
	require.EqualError(t, p.Fits([]bool{true}, 7, 3), "placement 1 is of 2 layers, the model has 1")
	require.EqualError(t, p.Fits([]bool{true, true}, 7, 3), "placement 1 has 0 experts in layer 1, the model 7")
	require.EqualError(t, p.Fits([]bool{true, false}, 8, 3), "placement 1 has 7 experts in layer 0, the model 8")
}

// TestPlacementTravels: what is read is what was written, and layers that are placed
// alike cost a byte each.
func TestPlacementTravels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPlacement(t, rapid.IntRange(1, 12).Draw(t, "experts"))
		got, err := ParsePlacement(p.Version, p.Append(nil))
		require.NoError(t, err)
		require.Equal(t, p, got)
	})
	one, many := len(Even(sparse(1), 128, 8).Append(nil)), len(Even(sparse(64), 128, 8).Append(nil))
	require.Equal(t, 63, many-one)
}

func TestParsePlacementNamesTheFault(t *testing.T) {
	for want, b := range map[string][]byte{
		"the number of nodes, 0 bytes before its end, is none":               {},
		"the number of nodes, 2 bytes before its end, is none":               {0x81, 0},
		"2000 nodes, the limit is 1024":                                      binary.AppendUvarint(nil, 2000),
		"9 different layers in 1 bytes":                                      {1, 9, 0},
		"5 experts in 2 bytes":                                               {1, 1, 5, 1, 0},
		"different layer 2 is like one before it":                            {1, 2, 1, 1, 0, 1, 1, 0, 2, 1, 2},
		"layer 0 is different layer 2, the last before it was 0":             {2, 2, 1, 1, 0, 1, 1, 1, 2, 2, 1},
		"1 of 2 different layers are used":                                   {2, 2, 1, 1, 0, 1, 1, 1, 1, 1},
		"1 bytes follow its end":                                             {1, 0, 0, 0},
		"a layer that has experts has 0":                                     {1, 1, 0, 1, 1},
		"placement 3: layer 0: expert 0 is on node 1, there are 1 nodes":     {1, 1, 1, 1, 1, 1, 1},
		"placement 3: layer 0: expert 0 is on node 0 after node 0, want the": {1, 1, 1, 2, 0, 0, 1, 1},
		"524289 bytes, the limit is 524288":                                  make([]byte, MaxPlacement+1),
	} {
		_, err := ParsePlacement(3, b)
		require.ErrorContains(t, err, want)
	}
}

// FuzzPlacement: what is read has one encoding, and takes memory in proportion to it.
func FuzzPlacement(f *testing.F) {
	f.Add(Even([]bool{false, true, true}, 5, 2).Append(nil))
	f.Add([]byte{2, 2, 1, 1, 0, 1, 2, 0, 1, 2, 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePlacement(1, b)
		if err != nil {
			return
		}
		if again := p.Append(nil); !bytes.Equal(again, b) {
			t.Fatalf("%x encodes as %x", b, again)
		}
		for n := range p.Nodes {
			p.Experts(n)
		}
	})
}

// hot is a micro-batch whose rows choose replicated experts more often than others.
func hot(rng *rand.Rand, experts, topK, rows int) (choices []int) {
	for range rows {
		row := rng.Perm(experts)[:topK]
		if !slices.Contains(row, 0) && rng.IntN(4) > 0 {
			row[rng.IntN(topK)] = 0
		}
		choices = append(choices, row...)
	}
	return choices
}

// replicated is the even placement with other nodes for the experts that homes lists.
func replicated(experts, nodes int, homes func(expert int) []int) Placement {
	p := Even(sparse(1), experts, nodes)
	for e := range p.Layers[0] {
		if list := homes(e); list != nil {
			p.Layers[0][e] = list
		}
	}
	return p
}

// TestReplicasShareTheLoad: nodes that could serve the same experts get as many pairs
// as each other, within 5 %, where one expert is hot and where every expert has two
// nodes, whether results are combined by expert or in partial sums.
func TestReplicasShareTheLoad(t *testing.T) {
	everywhere := func(nodes int) func(int) []int {
		return func(int) []int {
			list := make([]int, nodes)
			for n := range list {
				list[n] = n
			}
			return list
		}
	}
	for name, p := range map[string]Placement{
		"two nodes with everything":  replicated(64, 2, everywhere(2)),
		"four nodes with everything": replicated(64, 4, everywhere(4)),
		"two pairs of nodes":         replicated(64, 4, func(e int) []int { return []int{e % 2, 2 + e%2} }),
	} {
		for _, topK := range []int{1, 2, 8} {
			for _, combine := range []Combine{ByExpert, Partial} {
				rng := rand.New(rand.NewPCG(uint64(topK), 7))
				rows := 20000
				choices := hot(rng, 64, topK, rows)
				gates := randomGates(rng, len(choices))
				packets, err := NewSplitter(p, topK, combine).Split(0, choicesOf(choices), gates, rows)
				require.NoError(t, err)
				requireBalanced(t, p, choices, packets, "%s, top-%d, %v", name, topK, combine)
			}
		}
	}
}

// requireBalanced compares each node's pairs with its share of what it could serve.
func requireBalanced(t *testing.T, p Placement, choices []int, packets []Packet, text string, args ...any) {
	t.Helper()
	want := make([]float64, p.Nodes)
	for _, e := range choices {
		for _, n := range p.Layers[0][e] {
			want[n] += 1 / float64(len(p.Layers[0][e]))
		}
	}
	for n, packet := range packets {
		args := append([]any{n, len(packet.Row), want[n]}, args...)
		require.InEpsilonf(t, want[n], len(packet.Row), 0.05, "node %d gets %d pairs, its share is %.0f: "+text, args...)
	}
}

// TestBalanceCountsWhatHasNoChoice: a replicated expert's rows go to the node that has
// less of what only it can serve.
func TestBalanceCountsWhatHasNoChoice(t *testing.T) {
	p := replicated(4, 2, func(e int) []int { return [][]int{{0, 1}, {0}, {1}, {1}}[e] })
	choices := slices.Concat(slices.Repeat([]int{0}, 70), slices.Repeat([]int{1}, 10), slices.Repeat([]int{2}, 20))
	packets, err := NewSplitter(p, 1, ByExpert).Split(0, choicesOf(choices), make([]byte, 400), 100)
	require.NoError(t, err)
	require.Equal(t, []int{50, 50}, []int{len(packets[0].Row), len(packets[1].Row)})
}

// BenchmarkSplit is what an attention node does for each layer.
func BenchmarkSplit(b *testing.B) {
	const rows, topK, experts = 512, 8, 128
	rng := rand.New(rand.NewPCG(1, 2))
	var choices []int
	for range rows {
		choices = append(choices, rng.Perm(experts)[:topK]...)
	}
	for name, p := range map[string]Placement{
		"alone":      Even(sparse(1), experts, 8),
		"replicated": replicated(experts, 8, func(e int) []int { return []int{e % 4, 4 + e%4} }),
	} {
		for _, combine := range []Combine{ByExpert, Partial} {
			b.Run(name+"/"+combine.String(), func(b *testing.B) {
				s, encoded, gates := NewSplitter(p, topK, combine), choicesOf(choices), randomGates(rng, len(choices))
				for b.Loop() {
					if _, err := s.Split(0, encoded, gates, rows); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
