package route

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// term is a result by what it is: of a choice of a sender's row.
type term struct {
	sender int
	choice int32
}

// TestPartialSumsEqualTheDefinition follows random micro-batches of several
// senders to their nodes and back: each node adds, for each row, the results of
// the row's experts that live there, best first, and the sender adds the nodes'
// sums in the nodes' order.
func TestPartialSumsEqualTheDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, k, choices := draw(t)
		rows, senders := len(choices)/k, rapid.IntRange(1, 3).Draw(t, "senders")
		split := make([][]Packet, senders)
		for s := range split {
			var err error
			split[s], err = NewSplitter(p, k).Split(choicesOf(choices), rows)
			require.NoError(t, err)
		}
		returned := make([][][]term, senders) // by sender: rows of all packets
		for node := range p.Nodes {
			var messages []Pairs
			for s := range split {
				messages = append(messages, roundTrip(t, split[s][node]))
			}
			sums := sumsOfNode(t, p.Experts(node), messages, split, node)
			for s := range split {
				n := len(split[s][node].Rows)
				returned[s] = append(returned[s], sums[:n]...)
				sums = sums[n:]
			}
		}
		for s := range split {
			var sums Sums
			sums.ByNode(split[s], rows)
			for r := range rows {
				var got [][]term
				for _, i := range sums.of(r) {
					got = append(got, returned[s][i])
				}
				want := sumsByDefinition(p, choices, k, s, r)
				require.Empty(t, cmp.Diff(want, got, cmp.AllowUnexported(term{})), "row %d of sender %d", r, s)
			}
		}
	})
}

// of is the list of a row.
func (s *Sums) of(row int) []int32 { return s.Results[s.Offsets[row]:s.Offsets[row+1]] }

// sumsOfNode is what a node adds up for each row of its messages.
func sumsOfNode(t *rapid.T, experts []int, messages []Pairs, split [][]Packet, node int) (rows [][]term) {
	grouper := NewGrouper(experts)
	for _, m := range messages {
		require.NoError(t, grouper.Check(m))
	}
	g := grouper.Group(messages)
	result := map[int32]term{} // by grouped row
	for s := range messages {
		for i, choice := range split[s][node].Choice {
			result[g.Dst[s][i]] = term{s, choice}
		}
	}
	var sums Sums
	sums.ByRow(messages, g)
	for r := range len(sums.Offsets) - 1 {
		var row []term
		for _, i := range sums.of(r) {
			row = append(row, result[i])
		}
		rows = append(rows, row)
	}
	return rows
}

// sumsByDefinition are a row's sums: by node, best expert first.
func sumsByDefinition(p Placement, choices []int, k, sender, row int) (sums [][]term) {
	all := 0
	for _, e := range choices[row*k : (row+1)*k] {
		all += e
	}
	for node := range p.Nodes {
		var sum []term
		for c := row * k; c < (row+1)*k; c++ {
			if of := p.Of[choices[c]]; of[all%len(of)] == node {
				sum = append(sum, term{sender, int32(c)})
			}
		}
		if sum != nil {
			sums = append(sums, sum)
		}
	}
	return sums
}

// TestSplitDependsOnTheRowAlone: sums per node must not change with the
// micro-batch that a row is in.
func TestSplitDependsOnTheRowAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, k, choices := draw(t)
		rows := len(choices) / k
		node := func(choices []int, row int) (nodes []int) {
			packets, err := NewSplitter(p, k).Split(choicesOf(choices), len(choices)/k)
			require.NoError(t, err)
			nodes = make([]int, k)
			for n, packet := range packets {
				for i, choice := range packet.Choice {
					if int(packet.Rows[packet.Row[i]]) == row {
						nodes[int(choice)%k] = n
					}
				}
			}
			return nodes
		}
		for r := range rows {
			require.Equal(t, node(choices, r), node(choices[r*k:(r+1)*k], 0), "row %d alone", r)
		}
	})
}

func TestByChoice(t *testing.T) {
	results, offsets := ByChoice(5, 3).First(2)
	require.Equal(t, []int32{0, 1, 2, 3, 4, 5}, results)
	require.Equal(t, []int32{0, 3, 6}, offsets)
}
