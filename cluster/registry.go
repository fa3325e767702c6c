package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Registry is the membership as a pure state machine: what happened goes in,
// views come out. It has no clock: times are passed in.
type Registry struct {
	identity Identity
	timeout  time.Duration
	view     View
	epoch    uint64
	heard    map[string]time.Time
	named    map[Role]int
}

// NewRegistry returns the registry of a cluster without members. One that is not
// heard of for timeout is removed.
func NewRegistry(id Identity, s Settings, timeout time.Duration) *Registry {
	return &Registry{
		identity: id,
		timeout:  timeout,
		view:     View{Settings: s},
		heard:    map[string]time.Time{},
		named:    map[Role]int{},
	}
}

// View returns the current snapshot, which the caller owns.
func (r *Registry) View() View {
	v := r.view
	v.Members, v.Unreached = slices.Clone(v.Members), slices.Clone(v.Unreached)
	return v
}

// Join admits a node, gives it an id, an epoch and a place, and returns it as a
// member that is not ready yet.
func (r *Registry) Join(h Hello, now time.Time) (Member, error) {
	if err := r.identity.Match(h.Identity); err != nil {
		return Member{}, fmt.Errorf("node at %s refused: %w", h.Addr, err)
	}
	if err := r.view.match(h); err != nil {
		return Member{}, fmt.Errorf("node at %s refused: %w", h.Addr, err)
	}
	place, err := r.place(h)
	if err != nil {
		return Member{}, fmt.Errorf("node at %s refused: %w", h.Addr, err)
	}
	r.epoch++
	m := Member{ID: fmt.Sprintf("%s-%d", h.Role, r.named[h.Role]), Role: h.Role, Addr: h.Addr, Epoch: r.epoch, Place: place}
	r.named[h.Role]++
	r.heard[m.ID] = now
	if m.Role == Expert {
		r.strangers()
	}
	r.view.Members = append(r.view.Members, m)
	slices.SortFunc(r.view.Members, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Place, b.Place))
	})
	r.view.Version++
	return m, nil
}

// place is the one that a node wants, where it is free, else the lowest free one
// of its role.
func (r *Registry) place(h Hello) (int, error) {
	taken := map[int]bool{}
	for _, m := range r.view.Of(h.Role) {
		taken[m.Place] = true
	}
	if h.Role == Expert && h.Place >= 0 && h.Place < r.view.ExpertNodes && !taken[h.Place] {
		return h.Place, nil
	}
	place := 0
	for taken[place] {
		place++
	}
	if h.Role == Expert && place >= r.view.ExpertNodes {
		return 0, fmt.Errorf("all %d places of expert nodes are taken", r.view.ExpertNodes)
	}
	return place, nil
}

// Ready marks a member's weights as loaded.
func (r *Registry) Ready(id string, now time.Time) error {
	return r.mark(id, now, func(m *Member) { m.Ready = true })
}

// Drain marks a member as about to stop.
func (r *Registry) Drain(id string, now time.Time) error {
	return r.mark(id, now, func(m *Member) { m.Draining = true })
}

// Heard notes a sign of life.
func (r *Registry) Heard(id string, now time.Time) error {
	return r.mark(id, now, func(*Member) {})
}

// mark changes a member that was heard of.
func (r *Registry) mark(id string, now time.Time, change func(*Member)) error {
	i := r.find(id)
	if i < 0 {
		return fmt.Errorf("node %s is not a member", id)
	}
	r.heard[id] = now
	before := r.view.Members[i]
	change(&r.view.Members[i])
	if r.view.Members[i] != before {
		r.view.Version++
	}
	return nil
}

// Leave removes a member, and says whether it was one.
func (r *Registry) Leave(id string) bool {
	i := r.find(id)
	if i < 0 {
		return false
	}
	r.view.Members = slices.Delete(r.view.Members, i, i+1)
	delete(r.heard, id)
	r.view.Version++
	r.forgetPairs(id)
	return true
}

// Expire removes the members that have been silent for the timeout, and returns
// their ids.
func (r *Registry) Expire(now time.Time) []string {
	var lost []string
	for _, m := range r.View().Members {
		if now.Sub(r.heard[m.ID]) > r.timeout {
			lost = append(lost, m.ID)
			r.Leave(m.ID)
		}
	}
	return lost
}

func (r *Registry) find(id string) int {
	return slices.IndexFunc(r.view.Members, func(m Member) bool { return m.ID == id })
}
