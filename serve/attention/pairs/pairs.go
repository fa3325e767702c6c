// Package pairs owns how an attention node is connected with the expert nodes: which
// of them has each place, whether the pair with it is up, when to try again, and how
// long requests wait for a place to be filled. It is a pure state machine: events go
// in, actions come out. It may not know endpoints, devices or clocks.
//
// # States and events of a place
//
//		state       Members (1)   Sent (2)  Lost    Drop     Failed  Due (3)
//		Empty       Connecting    -         -       -        -       -
//		Connecting  Connecting    Up        Failed  Closing  Failed  -
//		Up          Connecting    -         Failed  Closing  -       -
//		Closing     Connecting    -         Failed  -        -       -
//		Failed      Connecting    -         -       -        -       Connecting
//
//	 1. The cluster has another expert node in the place; Empty where it has none.
//	 2. Of the hello by which the pair is made: both ends have shaken hands.
//	 3. The pause after a failure is over.
//
// A dash changes nothing. Generations are per pair: a pair that is lost is made anew
// under the same ids where both nodes live, and with the next node of the place where
// one of them died. Closing keeps apart the generations of one id: a pair that this
// end has dropped is made anew only after the endpoint has reported its loss, so that
// no report of the older generation is taken for one of the newer.
package pairs

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// State is how far the pair of a place is.
type State uint8

// States.
const (
	// Empty: the cluster has no expert node in the place.
	Empty State = iota
	// Connecting: the hello has been posted, or is about to be.
	Connecting
	// Up: the pair works.
	Up
	// Closing: this end has dropped the pair, and the endpoint has not reported that
	// it is lost.
	Closing
	// Failed: the pair was lost or could not be made; the next try is due later.
	Failed
)

func (s State) String() string {
	return [...]string{"empty", "connecting", "up", "closing", "failed"}[s]
}

// Member is an expert node. The zero value is nobody.
type Member struct {
	ID string
	// Addr is where it is reached, in m2n's words, and Epoch its incarnation.
	Addr  string
	Epoch uint64
}

// Pair is a place, for those who only look.
type Pair struct {
	Member
	State State
	// Lost is the expert node that was lost last, and Cause why, since the pair was
	// last up: this one, or one that had the place before.
	Lost  string
	Cause error
}

// ErrGone is the loss of an expert node that the cluster has no more.
var ErrGone = errors.New("it is no longer a member of the cluster")

// Pauses before a pair that failed is tried again: they double from the first to the
// longest. A try itself takes time where nobody answers.
const (
	firstPause   = 10 * time.Millisecond
	longestPause = 500 * time.Millisecond
)

// Actions are what the caller must do after an event, in this order.
type Actions struct {
	// Forget are the ids of expert nodes whose pairs are to be removed.
	Forget []string
	// Down are the places whose pairs were up: steps in flight are to be given up.
	Down []int
	// Connect are the places whose Member is to be named and sent a hello, which
	// Greeted or Failed answers.
	Connect []int
}

// Pairs are the pairs of an attention node. Times are on any clock of the caller's
// that does not go back.
type Pairs struct {
	wait   time.Duration
	places []place
	up     int
	// since is the first loss after which no step has been concluded; zero: none.
	since time.Time
}

type place struct {
	Pair
	hello uint64 // its token, while Connecting
	tries int    // that failed in a row
	due   time.Time
}

// New returns the pairs of so many places, all of them empty. Requests wait for a
// place to be filled no longer than wait.
func New(places int, wait time.Duration) *Pairs {
	return &Pairs{wait: wait, places: make([]place, places)}
}

// Up says that the pairs of all places are up.
func (p *Pairs) Up() bool { return p.up == len(p.places) }

// Pair tells of a place.
func (p *Pairs) Pair(i int) Pair { return p.places[i].Pair }

// Place finds the place of the expert node with an id, or -1.
func (p *Pairs) Place(id string) int {
	for i := range p.places {
		if p.places[i].ID == id && id != "" {
			return i
		}
	}
	return -1
}

// Members says which expert nodes the cluster has, by place.
func (p *Pairs) Members(members []Member, now time.Time) (a Actions) {
	for i := range p.places {
		var m Member
		if i < len(members) {
			m = members[i]
		}
		if p.places[i].ID == m.ID {
			continue
		}
		p.leave(i, ErrGone, &a, now)
		p.places[i].Member, p.places[i].tries = m, 0
		if m.ID != "" {
			p.connect(i, &a)
		}
	}
	return a
}

// leave ends the pair of a place that another expert node takes, or none.
func (p *Pairs) leave(i int, cause error, a *Actions, now time.Time) {
	q := &p.places[i]
	if q.State == Empty {
		return
	}
	if q.State == Up || q.State == Connecting {
		p.fail(i, cause, a, now)
	}
	a.Forget = append(a.Forget, q.ID)
	q.State = Empty
}

// fail notes that a pair is lost or was not made, and why.
func (p *Pairs) fail(i int, cause error, a *Actions, now time.Time) {
	q := &p.places[i]
	if q.State == Up {
		p.up--
		a.Down = append(a.Down, i)
	}
	if p.since.IsZero() {
		p.since = now
	}
	q.State, q.Lost, q.Cause = Failed, q.ID, cause
	q.due = now.Add(min(firstPause<<min(q.tries, 16), longestPause))
	q.tries++
}

func (p *Pairs) connect(i int, a *Actions) {
	p.places[i].State, p.places[i].hello = Connecting, 0
	a.Connect = append(a.Connect, i)
}

// Greeted says that the hello of a place has been posted, under a token.
func (p *Pairs) Greeted(i int, token uint64) {
	if p.places[i].State != Connecting {
		panic(fmt.Sprintf("pairs: a hello to place %d, which is %v", i, p.places[i].State))
	}
	p.places[i].hello = token
}

// Sent says that a message is out, and returns whether it was a hello: then the pair
// is up.
func (p *Pairs) Sent(token uint64) bool {
	if p.Up() {
		return false
	}
	for i := range p.places {
		if q := &p.places[i]; q.State == Connecting && q.hello == token && token != 0 {
			q.State, q.tries, q.Lost, q.Cause = Up, 0, "", nil
			p.up++
			return true
		}
	}
	return false
}

// Lost says that the endpoint has reported the loss of a pair.
func (p *Pairs) Lost(id string, cause error, now time.Time) (a Actions) {
	i := p.Place(id)
	if i < 0 {
		return a
	}
	switch q := &p.places[i]; q.State {
	case Closing:
		q.State = Failed
	case Connecting, Up:
		p.fail(i, cause, &a, now)
	}
	return a
}

// Drop ends a pair by this node's will: the expert node did what the protocol does not
// allow, did not answer, or a post found the pair lost.
func (p *Pairs) Drop(i int, cause error, now time.Time) (a Actions) {
	q := &p.places[i]
	if q.State != Up && q.State != Connecting {
		return a
	}
	p.fail(i, cause, &a, now)
	q.State = Closing
	a.Forget = append(a.Forget, q.ID)
	return a
}

// Failed says that the hello of a place could not even be posted.
func (p *Pairs) Failed(i int, cause error, now time.Time) (a Actions) {
	if p.places[i].State == Connecting {
		p.fail(i, cause, &a, now)
	}
	return a
}

// Due connects those whose pause is over.
func (p *Pairs) Due(now time.Time) (a Actions) {
	for i := range p.places {
		if q := &p.places[i]; q.State == Failed && !now.Before(q.due) {
			a.Forget = append(a.Forget, q.ID) // a pair that failed stays so
			p.connect(i, &a)
		}
	}
	return a
}

// Settle says that no request suffers from a loss any more: a step has been concluded,
// or there are no requests. The next loss begins a wait of its own.
func (p *Pairs) Settle() {
	if p.Up() {
		p.since = time.Time{}
	}
}

// Expired returns why requests are to end, once they have waited as long as they may.
// The wait begins with the first loss after a step was concluded: expert nodes that
// are lost again and again do not make it longer.
func (p *Pairs) Expired(now time.Time) error {
	if p.Up() || p.since.IsZero() || now.Sub(p.since) < p.wait {
		return nil
	}
	e := &LostError{Wait: p.wait}
	for i := range p.places {
		if q := p.places[i].Pair; q.State != Up && q.Lost != "" {
			e.Lost = append(e.Lost, q)
		}
	}
	return e
}

// LostError is expert nodes that were lost and that no others came for in time.
type LostError struct {
	Lost []Pair
	Wait time.Duration
}

// mostNamed bounds the expert nodes that an error tells of.
const mostNamed = 3

func (e *LostError) Error() string {
	var words []string
	for _, q := range e.Lost[:min(len(e.Lost), mostNamed)] {
		words = append(words, fmt.Sprintf("expert node %s is lost: %v", q.Lost, q.Cause))
	}
	if more := len(e.Lost) - mostNamed; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	if e.Wait > 0 {
		words = append(words, fmt.Sprintf("after %v there is none in its place that this node reaches", e.Wait))
	}
	return strings.Join(words, "; ")
}
