package dispatch

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestTable goes through the table at the head of the package: what each event does in
// each state of an exchange with two expert nodes.
func TestTable(t *testing.T) {
	one, two := Point{1, 0}, Point{2, 0}
	reach := map[State]func(*Dispatch){
		Idle:   func(*Dispatch) {},
		Packed: func(d *Dispatch) { d.Pack(one); d.Posted(0, 10) },
		Awaiting: func(d *Dispatch) {
			d.Pack(one)
			d.Posted(0, 10)
			d.Posted(1, 11)
		},
		Collected: func(d *Dispatch) {
			d.Pack(one)
			d.Posted(1, 11)
			d.Posted(0, 10)
			_, _ = d.Returned(0, one)
			_, _ = d.Returned(1, one)
		},
		Aborted: func(d *Dispatch) { d.Pack(one); d.Abort() },
	}
	results := func(place int, at Point) func(*Dispatch) string {
		return func(d *Dispatch) string {
			drop, err := d.Returned(place, at)
			switch {
			case err != nil:
				return "error"
			case drop:
				return "dropped"
			}
			return d.State().String()
		}
	}
	does := func(event func(*Dispatch)) func(*Dispatch) string {
		return func(d *Dispatch) string { event(d); return d.State().String() }
	}
	events := map[string]func(*Dispatch) string{
		"pack":           func(d *Dispatch) string { d.Sent(10); d.Sent(11); d.Pack(two); return d.State().String() },
		"posted":         does(func(d *Dispatch) { d.Posted(1, 12) }),
		"posted again":   does(func(d *Dispatch) { d.Posted(0, 12) }),
		"returned":       results(0, one),
		"not sent to":    results(1, one),
		"another step":   results(0, two),
		"another layer":  results(0, Point{1, 1}),
		"combine":        does((*Dispatch).Combine),
		"abort":          does((*Dispatch).Abort),
		"sent":           does(func(d *Dispatch) { d.Sent(10) }),
		"lost":           does(func(d *Dispatch) { d.Lost(0) }),
		"abort and late": func(d *Dispatch) string { d.Abort(); return results(0, one)(d) },
	}
	want := map[State]map[string]string{
		Idle: {
			"pack": "packed", "posted": "panic", "posted again": "panic", "returned": "error", "not sent to": "error", "another step": "error", "another layer": "error",
			"combine": "panic", "abort": "aborted", "sent": "idle", "lost": "idle", "abort and late": "error",
		},
		Packed: {
			"pack": "panic", "posted": "awaiting", "posted again": "panic", "returned": "packed", "not sent to": "error", "another step": "error", "another layer": "error",
			"combine": "panic", "abort": "aborted", "sent": "packed", "lost": "panic", "abort and late": "dropped",
		},
		Awaiting: {
			"pack": "panic", "posted": "panic", "posted again": "panic", "returned": "awaiting", "not sent to": "awaiting", "another step": "error", "another layer": "error",
			"combine": "panic", "abort": "aborted", "sent": "awaiting", "lost": "panic", "abort and late": "dropped",
		},
		Collected: {
			"pack": "panic", "posted": "panic", "posted again": "panic", "returned": "error", "not sent to": "error", "another step": "error", "another layer": "error",
			"combine": "idle", "abort": "aborted", "sent": "collected", "lost": "collected", "abort and late": "error",
		},
		Aborted: {
			"pack": "packed", "posted": "panic", "posted again": "panic", "returned": "error", "not sent to": "error", "another step": "error", "another layer": "error",
			"combine": "panic", "abort": "aborted", "sent": "aborted", "lost": "aborted", "abort and late": "error",
		},
	}
	for state, prepare := range reach {
		require.Len(t, want[state], len(events), "%v", state)
		for name, event := range events {
			d := New(2)
			prepare(d)
			require.Equal(t, state, d.State())
			require.Equal(t, want[state][name], outcome(d, event), "%v while %v", name, state)
		}
	}
}

// outcome is what an event comes to, "panic" included.
func outcome(d *Dispatch, event func(*Dispatch) string) (result string) {
	defer func() {
		if recover() != nil {
			result = "panic"
		}
	}()
	return event(d)
}

// TestBuffersThatAreReadAreNotPacked: a step that was given up is repeated only once
// the transport reads nothing of it.
func TestBuffersThatAreReadAreNotPacked(t *testing.T) {
	d := New(1)
	d.Pack(Point{1, 0})
	d.Posted(0, 7)
	d.Abort()
	require.False(t, d.Free())
	require.PanicsWithValue(t, "dispatch: packed into buffers that the transport reads while aborted at step 1, layer 0, 1 messages unsent", func() { d.Pack(Point{2, 0}) })
	d.Sent(8) // another exchange's
	require.False(t, d.Free())
	d.Sent(7)
	require.True(t, d.Free())
	require.Panics(t, func() { d.Pack(Point{1, 1}) }, "the step was given up")
	d.Pack(Point{2, 0})
}

// TestDebts: results of steps that were given up are told from those that nobody asked
// for, however many such steps there were, and later results settle earlier debts.
func TestDebts(t *testing.T) {
	d := New(2)
	token := uint64(0)
	give := func(step uint64) {
		d.Pack(Point{step, 3})
		for p := range 2 {
			token++
			d.Posted(p, token)
			d.Sent(token)
		}
	}
	for step := uint64(1); step <= 3; step++ {
		give(step)
		d.Abort()
	}
	give(4)
	drop, err := d.Returned(0, Point{2, 3})
	require.NoError(t, err)
	require.True(t, drop)
	_, err = d.Returned(0, Point{1, 3})
	require.ErrorContains(t, err, "results of step 1, layer 3 from place 0, which were not asked for or have come before; the exchange is awaiting at step 4, layer 3")
	drop, err = d.Returned(0, Point{4, 3})
	require.NoError(t, err)
	require.False(t, drop)
	_, err = d.Returned(0, Point{3, 3})
	require.Error(t, err, "settled by what came later")
	d.Abort()
	_, err = d.Returned(0, Point{4, 3})
	require.Error(t, err, "they were here when the step was given up")
	d.Lost(1)
	_, err = d.Returned(1, Point{3, 3})
	require.Error(t, err, "of one that is gone")
}

// TestWhoIsWaitedFor: by place, whose results are missing, and whose rows the transport
// still reads.
func TestWhoIsWaitedFor(t *testing.T) {
	d := New(3)
	require.Empty(t, d.Unreturned())
	d.Pack(Point{1, 0})
	for p := range 3 {
		d.Posted(p, uint64(10+p))
	}
	d.Sent(11)
	_, err := d.Returned(0, Point{1, 0})
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, d.Unreturned())
	require.Equal(t, []int{0, 2}, d.Unsent())
	d.Abort()
	require.Empty(t, d.Unreturned())
	require.Equal(t, []int{0, 2}, d.Unsent())
}

// world is an exchange and, for each expert node, the answers that are on their way.
type world struct {
	d       *Dispatch
	coming  [][]Point // by place, in the order in which they come
	unsent  []uint64
	at      Point
	results map[int]bool // of the dispatch under way
	trace   []string
}

// TestAnyOrder draws interleavings of results, ends of sending, steps given up and
// losses, as they may come from expert nodes that keep to the protocol: none is an
// error, what belongs to a step that was given up is dropped and nothing else is, and
// the exchange is collected exactly when all results of the step under way are here.
func TestAnyOrder(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		places := rapid.IntRange(1, 70).Draw(t, "places")
		if rapid.Bool().Draw(t, "few") {
			places = min(places, 3)
		}
		w := &world{d: New(places), coming: make([][]Point, places), results: map[int]bool{}, at: Point{1, -1}}
		for range rapid.IntRange(1, 120).Draw(t, "events") {
			w.next(t, seen)
			w.check(t)
		}
	})
	for _, event := range []string{"post", "return", "drop", "combine", "abort", "abort while posting", "lost", "late in a later step"} {
		require.Positive(t, seen[event], "%s never happened: %v", event, seen)
	}
}

// next lets something happen that may.
func (w *world) next(t *rapid.T, seen map[string]int) {
	event := rapid.SampledFrom([]string{"advance", "advance", "advance", "return", "return", "return", "sent", "sent", "abort", "lost"}).Draw(t, "event")
	w.trace = append(w.trace, event)
	switch place := rapid.IntRange(0, len(w.coming)-1).Draw(t, "place"); event {
	case "advance":
		w.advance(t, seen)
	case "return":
		w.returns(t, place, seen)
	case "sent":
		if len(w.unsent) > 0 {
			i := rapid.IntRange(0, len(w.unsent)-1).Draw(t, "which")
			w.d.Sent(w.unsent[i])
			w.unsent = slices.Delete(w.unsent, i, i+1)
		}
	case "abort", "lost":
		w.abort(place, event == "lost", seen)
	}
}

// advance does what the attention node does next by itself.
func (w *world) advance(t *rapid.T, seen map[string]int) {
	switch w.d.State() {
	case Idle, Aborted:
		if !w.d.Free() {
			return
		}
		w.at.Layer++
		if w.d.State() == Aborted || rapid.Bool().Draw(t, "next step") {
			w.at = Point{w.at.Step + 1, 0}
		}
		w.d.Pack(w.at)
		clear(w.results)
	case Packed:
		seen["post"]++
		p := w.d.posted
		token := uint64(len(w.trace))
		w.d.Posted(p, token)
		w.unsent, w.coming[p] = append(w.unsent, token), append(w.coming[p], w.at)
	case Collected:
		seen["combine"]++
		w.d.Combine()
	}
}

// returns has an expert node answer, or drop what it holds of a step that was given up.
func (w *world) returns(t *rapid.T, place int, seen map[string]int) {
	coming := w.coming[place]
	if len(coming) == 0 {
		return
	}
	i := 0
	if len(coming) > 1 && rapid.Bool().Draw(t, "the older ones were dropped") {
		i = rapid.IntRange(0, len(coming)-1).Draw(t, "which")
	}
	at := coming[i]
	w.coming[place] = coming[i+1:]
	under := at == w.at && w.d.State() != Aborted
	drop, err := w.d.Returned(place, at)
	if err != nil || drop == under {
		t.Fatalf("results of %v at %v, %v: dropped %v, %v", at, w.at, w.d.State(), drop, err)
	}
	if drop {
		seen["drop"]++
		if at.Step < w.at.Step {
			seen["late in a later step"]++
		}
		return
	}
	seen["return"]++
	w.results[place] = true
	if _, err := w.d.Returned(place, at); err == nil {
		t.Fatalf("results of %v came twice", at)
	}
}

// abort gives the step up, where an expert node is lost or another micro-batch lost one.
func (w *world) abort(place int, lost bool, seen map[string]int) {
	seen["abort"]++
	if w.d.State() == Packed {
		seen["abort while posting"]++
	}
	w.d.Abort()
	if lost {
		seen["lost"]++
		w.d.Lost(place)
		w.coming[place] = nil
	}
}

// check holds the exchange against what the test knows.
func (w *world) check(t *rapid.T) {
	var missing []int
	for p := range w.coming {
		if w.d.Missing()[p/64]>>(p%64)&1 == 1 {
			missing = append(missing, p)
		}
	}
	state := w.d.State()
	switch {
	case state == Packed || state == Awaiting:
		if len(missing) != len(w.coming)-len(w.results) || len(missing) == 0 {
			t.Fatalf("%v: missing are %v, here are %v", state, missing, w.results)
		}
	case len(missing) > 0:
		t.Fatalf("%v, and the results of %v are missing", state, missing)
	case state == Collected && len(w.results) != len(w.coming):
		t.Fatalf("collected with the results of %v", w.results)
	}
	if w.d.Free() != (len(w.unsent) == 0) {
		t.Fatalf("free: %v with %d messages unsent after %s", w.d.Free(), len(w.unsent), strings.Join(w.trace, " "))
	}
}

// TestSteadyStateAllocatesNothing.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	d := New(8)
	step, token := uint64(0), uint64(0)
	turn := func() {
		step++
		d.Pack(Point{step, 0})
		for p := range 8 {
			d.Posted(p, token+uint64(p))
		}
		for p := range 8 {
			d.Sent(token + uint64(p))
			if _, err := d.Returned(p, Point{step, 0}); err != nil {
				panic(err)
			}
		}
		token += 8
		d.Combine()
	}
	for range 1000 {
		turn()
	}
	require.Zero(t, testing.AllocsPerRun(1000, turn))
}

func ExampleDispatch() {
	d := New(2)
	d.Pack(Point{Step: 1, Layer: 0})
	d.Posted(0, 100)
	d.Posted(1, 101)
	fmt.Println(d.State())
	for place := range 2 {
		_, err := d.Returned(place, Point{Step: 1, Layer: 0})
		fmt.Println(d.State(), err)
	}
	// Output:
	// awaiting
	// awaiting <nil>
	// collected <nil>
}
