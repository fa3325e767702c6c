package route

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// placesOf encodes places as they travel.
func placesOf(places ...int32) []byte {
	b := make([]byte, PlacesSize(len(places)))
	PutPlaces(b, places)
	return b
}

// owed is the places that a node's results have when nothing is wrong, in the order of
// its packet.
func (d drawn) owed(p Packet) (places []int32) {
	if d.combine == ByExpert {
		return p.Choice
	}
	for row := range p.Rows {
		others := func(c int32) bool { return c/int32(d.topK) != p.Rows[row] }
		places = append(places, slices.Min(slices.DeleteFunc(slices.Clone(p.Choice), others)))
	}
	return places
}

// TestResultsGoWhereTheySay: in whatever order results come, each goes to the slot of
// what was asked, and all slots are filled.
func TestResultsGoWhereTheySay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t)
		r := NewReturns(d.topK, d.combine)
		for range 2 { // a layer after another
			packets := d.split(t)
			r.Expect(packets, d.rows)
			var sums Sums
			sums.ByNode(packets, d.rows)
			filled := map[int32]bool{}
			for node, p := range packets {
				places := rapid.Permutation(d.owed(p)).Draw(t, "places")
				slots, err := r.Take(node, len(places), placesOf(places...))
				require.NoError(t, err)
				for i, slot := range slots {
					require.False(t, filled[slot])
					filled[slot] = true
					if d.combine == ByExpert {
						require.Equal(t, places[i], slot)
						continue
					}
					require.Contains(t, sums.of(int(places[i])/d.topK), slot)
				}
			}
			require.Len(t, filled, len(r.got))
		}
	})
}

// TestReturnsNameTheFault: two rows of two choices over two nodes, and each thing that a
// node can do wrong.
func TestReturnsNameTheFault(t *testing.T) {
	p := Even(sparse(1), 4, 2)
	choices := []int{0, 3, 1, 0} // node 0 serves places 0, 2 and 3, node 1 place 1
	for _, c := range []struct {
		combine Combine
		node    int
		places  []byte
		results int
		want    string
	}{
		{ByExpert, 0, placesOf(0, 2), 2, "2 results, 3 were asked for"},
		{ByExpert, 0, placesOf(0, 2, 3, 3), 4, "4 results, 3 were asked for"},
		{ByExpert, 0, placesOf(0, 2, 3)[:11], 3, "11 bytes of places, want 12 for 3 results"},
		{ByExpert, 0, placesOf(0, 2, 4), 3, "result 2 is for place 4, the micro-batch has 4"},
		{ByExpert, 0, placesOf(0, -1, 3), 3, "result 1 is for place 4294967295, the micro-batch has 4"},
		{ByExpert, 0, placesOf(0, 1, 3), 3, "result 1 is for place 1, which was asked of expert node 1 and comes from 0"},
		{ByExpert, 0, placesOf(0, 3, 3), 3, "result 2 is for place 3, as is one before it"},
		{Partial, 0, placesOf(0, 2, 3), 3, "3 results, 2 were asked for"},
		{Partial, 0, placesOf(0, 1), 2, "result 1 is for place 1, which was asked of expert node 1 and comes from 0"},
		{Partial, 0, placesOf(2, 3), 2, "result 1 is for place 3, as is one before it"},
		{Partial, 1, placesOf(0), 1, "result 0 is for place 0, which was asked of expert node 0 and comes from 1"},
	} {
		split := NewSplitter(p, 2, c.combine)
		packets, err := split.Split(0, choicesOf(choices), make([]byte, 16), 2)
		require.NoError(t, err)
		r := NewReturns(2, c.combine)
		r.Expect(packets, 2)
		_, err = r.Take(c.node, c.results, c.places)
		require.EqualError(t, err, c.want)
	}
}

// FuzzReturns: whatever a node says of its results, what is taken fills slots of what was
// asked of it, each once.
func FuzzReturns(f *testing.F) {
	f.Add(placesOf(0, 2, 3), uint8(0), false)
	f.Add(placesOf(0, 2), uint8(0), true)
	f.Add(placesOf(1), uint8(1), false)
	f.Fuzz(func(t *testing.T, b []byte, node uint8, partial bool) {
		combine := ByExpert
		if partial {
			combine = Partial
		}
		split := NewSplitter(Even(sparse(1), 4, 2), 2, combine)
		packets, err := split.Split(0, choicesOf([]int{0, 3, 1, 0}), make([]byte, 16), 2)
		if err != nil {
			t.Fatal(err)
		}
		r := NewReturns(2, combine)
		r.Expect(packets, 2)
		n := int(node % 2)
		slots, err := r.Take(n, len(b)/PlacesSize(1), b)
		if err != nil {
			return
		}
		seen := map[int32]bool{}
		for i, slot := range slots {
			place := int32(binary.LittleEndian.Uint32(b[PlacesSize(i):]))
			if seen[slot] || !slices.Contains(packets[n].Choice, place) || int(slot) >= len(r.got) {
				t.Fatalf("slots %v of places %x", slots, b)
			}
			seen[slot] = true
		}
		if len(slots) != r.Asked(n) {
			t.Fatalf("%d slots, %d results were asked for", len(slots), r.Asked(n))
		}
	})
}
