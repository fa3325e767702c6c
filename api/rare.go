package api

import (
	"sync"
	"time"
)

// rarely is how often a kind of event that strangers can cause is logged.
const rarely = 10 * time.Second

// rare bounds how often a kind of event is told of.
type rare struct {
	mu    sync.Mutex
	again time.Time
	left  int
}

// now says whether to tell of an event, and how many were not told of since the
// last one that was.
func (r *rare) now() (left int, ok bool) { return r.at(time.Now()) }

func (r *rare) at(now time.Time) (left int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Before(r.again) {
		r.left++
		return 0, false
	}
	left, r.left, r.again = r.left, 0, now.Add(rarely)
	return left, true
}
