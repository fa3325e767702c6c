package pairs

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var (
	start   = time.Unix(1000, 0)
	errLost = errors.New("the network is gone")
)

func member(id string) Member { return Member{ID: id, Addr: "tcp:" + id, Epoch: 1} }

// in returns pairs of one place that is in a state.
func in(state State) *Pairs {
	p := New(1, time.Minute)
	if state == Empty {
		return p
	}
	p.Members([]Member{member("a")}, start)
	p.Greeted(0, 7)
	if state == Connecting {
		return p
	}
	p.Sent(7)
	switch state {
	case Closing:
		p.Drop(0, errLost, start)
	case Failed:
		p.Lost("a", errLost, start)
	}
	return p
}

// TestTable goes through the table at the head of the package.
func TestTable(t *testing.T) {
	later := start.Add(time.Second)
	events := map[string]func(*Pairs) Actions{
		"another":    func(p *Pairs) Actions { return p.Members([]Member{member("b")}, later) },
		"nobody":     func(p *Pairs) Actions { return p.Members(nil, later) },
		"the same":   func(p *Pairs) Actions { return p.Members([]Member{p.Pair(0).Member}, later) },
		"sent":       func(p *Pairs) Actions { p.Sent(7); return Actions{} },
		"other sent": func(p *Pairs) Actions { p.Sent(8); return Actions{} },
		"lost":       func(p *Pairs) Actions { return p.Lost("a", errLost, later) },
		"other lost": func(p *Pairs) Actions { return p.Lost("b", errLost, later) },
		"drop":       func(p *Pairs) Actions { return p.Drop(0, errLost, later) },
		"failed":     func(p *Pairs) Actions { return p.Failed(0, errLost, later) },
		"due":        func(p *Pairs) Actions { return p.Due(later) },
		"not due":    func(p *Pairs) Actions { return p.Due(start) },
	}
	forget, connect, down := []string{"a"}, []int{0}, []int{0}
	type outcome struct {
		State
		Actions
	}
	want := map[State]map[string]outcome{
		Empty: {"another": {Connecting, Actions{Connect: connect}}},
		Connecting: {
			"another": {Connecting, Actions{Forget: forget, Connect: connect}}, "nobody": {Empty, Actions{Forget: forget}},
			"sent": {State: Up}, "lost": {State: Failed}, "drop": {Closing, Actions{Forget: forget}}, "failed": {State: Failed},
		},
		Up: {
			"another": {Connecting, Actions{Forget: forget, Down: down, Connect: connect}}, "nobody": {Empty, Actions{Forget: forget, Down: down}},
			"lost": {Failed, Actions{Down: down}}, "drop": {Closing, Actions{Forget: forget, Down: down}},
		},
		Closing: {
			"another": {Connecting, Actions{Forget: forget, Connect: connect}}, "nobody": {Empty, Actions{Forget: forget}},
			"lost": {State: Failed},
		},
		Failed: {
			"another": {Connecting, Actions{Forget: forget, Connect: connect}}, "nobody": {Empty, Actions{Forget: forget}},
			"due": {Connecting, Actions{Forget: forget, Connect: connect}},
		},
	}
	for state, changes := range want {
		for name, event := range events {
			p := in(state)
			require.Equal(t, state, p.Pair(0).State)
			expected, changed := changes[name]
			if !changed {
				expected = outcome{State: state}
			}
			a := event(p)
			require.Equal(t, expected, outcome{p.Pair(0).State, a}, "%s while %v", name, state)
			require.Equal(t, p.Pair(0).State == Up, p.Up())
		}
	}
	require.Panics(t, func() { in(Up).Greeted(0, 1) })
}

// TestGenerationsOfAnID: after a drop the same id is connected only once its loss has
// been reported, and a report that comes after that is of the newer pair.
func TestGenerationsOfAnID(t *testing.T) {
	p := in(Up)
	now := start
	require.Equal(t, []int{0}, p.Drop(0, errLost, now).Down)
	now = now.Add(time.Hour)
	require.Zero(t, p.Due(now), "its loss has not been reported")
	require.Zero(t, p.Lost("a", errors.New("peer removed"), now))
	require.Equal(t, errLost, p.Pair(0).Cause, "why it was dropped")
	require.Equal(t, []int{0}, p.Due(now).Connect)
	require.False(t, p.Sent(7), "the hello of the older pair")
	p.Greeted(0, 9)
	require.False(t, p.Sent(7), "the hello of the older pair")
	require.True(t, p.Sent(9))
	require.Equal(t, []int{0}, p.Lost("a", errLost, now).Down)
}

// TestPauses between tries grow, and begin anew after a pair was up.
func TestPauses(t *testing.T) {
	p := in(Up)
	now := start
	a := p.Lost("a", errLost, now)
	for _, ms := range []int{10, 20, 40, 80, 160, 320, 500, 500} {
		pause := time.Duration(ms) * time.Millisecond
		require.Zero(t, p.Due(now.Add(pause-1)), "%v", a)
		now = now.Add(pause)
		require.Equal(t, []int{0}, p.Due(now).Connect)
		p.Greeted(0, 1)
		a = p.Lost("a", errLost, now)
	}
	p.Members([]Member{member("b")}, now)
	p.Greeted(0, 1)
	p.Lost("b", errLost, now)
	require.NotZero(t, p.Due(now.Add(firstPause)), "another expert node has not failed before")
	p.Greeted(0, 2)
	p.Sent(2)
	p.Lost("b", errLost, now)
	require.NotZero(t, p.Due(now.Add(firstPause)))
}

// TestWait: it begins with the first loss after a step was concluded, however often
// expert nodes are lost again, and the error names those that are lost.
func TestWait(t *testing.T) {
	p := New(2, time.Minute)
	up := func(ids ...string) {
		p.Members([]Member{member(ids[0]), member(ids[1])}, start)
		for i := range ids {
			if p.Pair(i).State == Connecting {
				p.Greeted(i, uint64(i+1))
				p.Sent(uint64(i + 1))
			}
		}
		require.True(t, p.Up())
	}
	up("a", "b")
	p.Lost("a", errLost, start)
	p.Settle()
	require.NoError(t, p.Expired(start.Add(time.Minute-1)), "it cannot be settled while one is lost")
	require.EqualError(t, p.Expired(start.Add(time.Minute)), "expert node a is lost: the network is gone; after 1m0s there is none in its place that this node reaches")
	up("c", "b")
	require.NoError(t, p.Expired(start.Add(time.Hour)))
	p.Lost("b", errLost, start.Add(59*time.Second))
	require.ErrorContains(t, p.Expired(start.Add(time.Minute)), "expert node b is lost", "no step was concluded in between")
	p.Members([]Member{{}, member("b")}, start.Add(time.Minute))
	require.ErrorContains(t, p.Expired(start.Add(time.Minute)), "expert node c is lost: it is no longer a member of the cluster; expert node b is lost")
	up("d", "e")
	p.Settle()
	p.Lost("d", errLost, start.Add(time.Minute))
	require.NoError(t, p.Expired(start.Add(2*time.Minute-1)))
	require.ErrorContains(t, p.Expired(start.Add(2*time.Minute)), "expert node d is lost")

	many := New(5, 0)
	for i := range 5 {
		many.places[i].Member = member(fmt.Sprint(i))
		many.connect(i, &Actions{})
		many.Failed(i, errLost, start)
	}
	require.EqualError(t, many.Expired(start), "expert node 0 is lost: the network is gone; expert node 1 is lost: the network is gone; expert node 2 is lost: the network is gone; and 2 more")
}

// endpoint is what the endpoint and the cluster do, as they may.
type endpoint struct {
	p      *Pairs
	now    time.Time
	named  map[string]bool // ids that have a pair
	live   map[string]uint64
	owed   []string // losses that are to be reported
	tokens uint64
	hellos map[uint64]string // on their way
	ids    int
	down   map[int]bool
}

// TestAnyHistory draws events in any order that the endpoint and the cluster may bring
// about: a pair is named only while the endpoint knows no older one under its id, and
// that a place works is said exactly while its pair does.
func TestAnyHistory(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		places := rapid.IntRange(1, 4).Draw(t, "places")
		e := &endpoint{
			p: New(places, time.Minute), now: start, named: map[string]bool{}, live: map[string]uint64{},
			hellos: map[uint64]string{}, down: map[int]bool{},
		}
		members := make([]Member, places)
		for range rapid.IntRange(1, 100).Draw(t, "events") {
			e.now = e.now.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "ms")) * time.Millisecond)
			place := rapid.IntRange(0, places-1).Draw(t, "place")
			event := rapid.SampledFrom([]string{"replace", "vacate", "sent", "sent", "sent", "break", "drop", "report", "report", "due", "due", "settle"}).Draw(t, "event")
			if e.happens(t, event, place, members) {
				seen[event]++
			}
			e.check(t)
		}
	})
	for _, event := range []string{"replace", "vacate", "sent", "break", "drop", "report", "due"} {
		require.Positive(t, seen[event], "%s never happened: %v", event, seen)
	}
}

func (e *endpoint) happens(t *rapid.T, event string, place int, members []Member) bool {
	id := e.p.Pair(place).ID
	switch event {
	case "replace":
		e.ids++
		members[place] = member(fmt.Sprint("e", e.ids))
		e.does(t, e.p.Members(slices.Clone(members), e.now))
	case "vacate":
		members[place] = Member{}
		e.does(t, e.p.Members(slices.Clone(members), e.now))
	case "sent":
		for token, to := range e.hellos {
			if to == id && e.live[to] == token {
				delete(e.hellos, token)
				if !e.p.Sent(token) {
					t.Fatalf("the hello to %s was not one", to)
				}
				return true
			}
		}
		return false
	case "break": // by the network
		if e.live[id] == 0 {
			return false
		}
		e.loses(id)
	case "drop":
		if s := e.p.Pair(place).State; s != Up {
			return false
		}
		e.does(t, e.p.Drop(place, errLost, e.now))
	case "report":
		if len(e.owed) == 0 {
			return false
		}
		lost := e.owed[0]
		e.owed = e.owed[1:]
		e.does(t, e.p.Lost(lost, errLost, e.now))
	case "due":
		a := e.p.Due(e.now)
		e.does(t, a)
		return len(a.Connect) > 0
	case "settle":
		e.p.Settle()
	}
	return true
}

// loses ends a pair; the endpoint is going to report it.
func (e *endpoint) loses(id string) {
	if e.live[id] == 0 {
		return
	}
	delete(e.hellos, e.live[id])
	delete(e.live, id)
	e.owed = append(e.owed, id)
}

// does what the actions say.
func (e *endpoint) does(t *rapid.T, a Actions) {
	for _, id := range a.Forget {
		e.loses(id)
		delete(e.named, id)
	}
	for _, place := range a.Connect {
		m := e.p.Pair(place).Member
		if m.ID == "" || e.named[m.ID] || slices.Contains(e.owed, m.ID) {
			t.Fatalf("%+v is named although it has a pair (%v) or its loss is to be reported (%v)", m, e.named, e.owed)
		}
		e.named[m.ID] = true
		e.tokens++
		e.live[m.ID] = e.tokens
		e.hellos[e.tokens] = m.ID
		e.p.Greeted(place, e.tokens)
	}
}

// check holds what the pairs say against the endpoint: one that is up has a pair, or
// its loss is about to be reported.
func (e *endpoint) check(t *rapid.T) {
	up := 0
	for i := range e.p.places {
		q := e.p.Pair(i)
		if q.State != Up {
			continue
		}
		up++
		if e.live[q.ID] == 0 && !slices.Contains(e.owed, q.ID) {
			t.Fatalf("%+v has no pair, and nobody is going to say so", q)
		}
		if e.p.Place(q.ID) != i {
			t.Fatalf("%s is found in place %d, not %d", q.ID, e.p.Place(q.ID), i)
		}
	}
	if e.p.Up() != (up == len(e.p.places)) {
		t.Fatalf("up: %v, with %d of %d", e.p.Up(), up, len(e.p.places))
	}
}
