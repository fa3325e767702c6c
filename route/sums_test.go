package route

import (
	"slices"
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
		d := draw(t)
		d.combine = Partial
		rows, senders := d.rows, rapid.IntRange(1, 3).Draw(t, "senders")
		split := make([][]Packet, senders)
		for s := range split {
			split[s] = d.split(t)
		}
		returned := make([][][]term, senders) // by sender: rows of all packets
		for node := range d.Nodes {
			var messages []Pairs
			for s := range split {
				messages = append(messages, roundTrip(t, split[s][node]))
			}
			sums := sumsOfNode(t, d.experts(node), messages, split, node)
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
				want := d.sumsByDefinition(s, r)
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
		require.Equal(t, row[0].choice, sums.Places()[r], "a sum goes where its best result would")
	}
	return rows
}

// sumsByDefinition are a row's sums: by node, best expert first. A row with one
// expert has one sum, wherever it is made.
func (d drawn) sumsByDefinition(sender, row int) (sums [][]term) {
	lo, hi := row*d.topK, (row+1)*d.topK
	hash := RowHash(choicesOf(d.choices[lo:hi]), d.gates[4*lo:4*hi])
	if d.topK == 1 {
		return [][]term{{{sender, int32(row)}}}
	}
	for node := range d.Nodes {
		var sum []term
		for c := lo; c < hi; c++ {
			if d.Layers[d.layer].Pick(d.choices[c], hash) == node {
				sum = append(sum, term{sender, int32(c)})
			}
		}
		if sum != nil {
			sums = append(sums, sum)
		}
	}
	return sums
}

// TestPartialSplitDependsOnTheRowAlone: which results a node adds up must not change
// with the micro-batch that a row is in.
func TestPartialSplitDependsOnTheRowAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t)
		d.combine = Partial
		for r := range d.rows {
			alone := d
			lo, hi := r*d.topK, (r+1)*d.topK
			alone.rows, alone.choices, alone.gates = 1, d.choices[lo:hi], d.gates[4*lo:4*hi]
			require.Equal(t, d.groups(t, r), alone.groups(t, 0), "row %d alone", r)
		}
	})
}

// groups are the ranks of a row's experts that each node adds up, by node; of a row
// with one expert only that there is one group.
func (d drawn) groups(t *rapid.T, row int) (groups [][]int32) {
	for _, packet := range d.split(t) {
		var group []int32
		for i, c := range packet.Choice {
			if int(packet.Rows[packet.Row[i]]) == row {
				group = append(group, c%int32(d.topK))
			}
		}
		slices.Sort(group)
		if d.topK > 1 || group != nil {
			groups = append(groups, group)
		}
	}
	return groups
}

func TestByChoice(t *testing.T) {
	results, offsets := ByChoice(5, 3).First(2)
	require.Equal(t, []int32{0, 1, 2, 3, 4, 5}, results)
	require.Equal(t, []int32{0, 3, 6}, offsets)
}
