package shape

import (
	"container/heap"
	"time"
)

// nic is one direction of a host's NIC. It serves one packet after the other at its rate.
// The fraction of a nanosecond with which a packet ends is carried over to the next
// packet, so that a million small packets take as long as their sum.
type nic struct {
	rate    int64         // bytes per second; 0 is without a limit
	free    time.Duration // when it has served all packets so far
	rest    int64         // on top of free, in nanoseconds ÷ rate
	carried int64         // bytes
}

// setRate changes the rate, from the next packet on.
func (n *nic) setRate(rate int64) { n.rate, n.rest = rate, 0 }

// serve returns when a packet that may begin now has been served.
func (n *nic) serve(now time.Duration, size int) time.Duration {
	if n.rate == 0 {
		return now
	}
	if now > n.free {
		n.free, n.rest = now, 0
	}
	work := int64(size)*int64(time.Second) + n.rest
	n.free += time.Duration(work / n.rate)
	n.rest = work % n.rate
	return n.free
}

// agenda holds what is to be done, and when. Entries for the same time are done in the
// order in which they were added.
type agenda struct {
	events events
	seq    uint64
}

type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

func (a *agenda) len() int      { return len(a.events) }
func (a *agenda) first() *event { return &a.events[0] }
func (a *agenda) pop() event    { return heap.Pop(&a.events).(event) }

func (a *agenda) push(at time.Duration, do func()) {
	a.seq++
	heap.Push(&a.events, event{at: at, seq: a.seq, do: do})
}

// events is a heap, earliest first.
type events []event

func (e events) Len() int      { return len(e) }
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }

func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}

func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}

// queue is a first-in, first-out queue.
type queue[T any] struct {
	items []T
	head  int
}

func (q *queue[T]) len() int { return len(q.items) - q.head }
func (q *queue[T]) push(v T) { q.items = append(q.items, v) }

// front returns the oldest item, which must exist.
func (q *queue[T]) front() T { return q.items[q.head] }

// pop removes and returns the oldest item, which must exist.
func (q *queue[T]) pop() T {
	var zero T
	v := q.items[q.head]
	q.items[q.head] = zero
	q.head++
	if 2*q.head >= len(q.items) { // move the items to the front, so that the popped ones can be collected
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	return v
}
