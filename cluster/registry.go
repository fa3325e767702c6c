package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Registry is the membership as a pure state machine: what happened goes in,
// views come out. It has no clock: times are passed in.
type Registry struct {
	identity Identity
	timeout  time.Duration
	view     View
	epoch    uint64
	life     string // follows the number in ids
	heard    map[string]time.Time
	moves    map[string]Moved
	joined   map[string]time.Time
	named    map[Role]int
	gone     []departure
	proposed uint64 // placements so far: the last one's version
}

// Moved is how far a member was when it was last seen to move, and when that was.
type Moved struct {
	Progress
	At time.Time
}

// departure is a member that is gone, and why.
type departure struct{ id, reason string }

// rememberedDepartures is how many there are: those who ask do so at once.
const rememberedDepartures = 256

// loadPatience is how long a member that is not ready may load nothing. A large
// tensor may come from a slow disk.
const loadPatience = 2 * time.Minute

// loadLimit is how long a member may load in all, whatever it says of its progress:
// a terabyte takes 20 minutes at 1 GB/s.
const loadLimit = time.Hour

// maxMembers bounds the members of a role.
const maxMembers = 1 << 10

// NewRegistry returns the registry of a cluster without members. One that is not
// heard of for timeout is removed.
func NewRegistry(id Identity, s Settings, timeout time.Duration) *Registry {
	return &Registry{
		identity: id,
		timeout:  timeout,
		view:     View{Settings: s},
		heard:    map[string]time.Time{},
		moves:    map[string]Moved{},
		joined:   map[string]time.Time{},
		named:    map[Role]int{},
	}
}

// Begin says when the front end's life began: ids and epochs that it gives were
// given in no life before.
func (r *Registry) Begin(at time.Time) {
	r.epoch = uint64(at.UnixMicro())
	r.life = "." + strconv.FormatInt(at.UnixMilli(), 36)
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
		return Member{}, fmt.Errorf("node at %q refused: %w", h.Addr, err)
	}
	if err := r.view.match(h); err != nil {
		return Member{}, fmt.Errorf("node at %q refused: %w", h.Addr, err)
	}
	place, err := r.place(h)
	if err != nil {
		return Member{}, fmt.Errorf("node at %q refused: %w", h.Addr, err)
	}
	r.epoch++
	m := Member{ID: fmt.Sprintf("%s-%d%s", h.Role, r.named[h.Role], r.life), Role: h.Role, Addr: h.Addr, Epoch: r.epoch,
		Place: place}
	r.named[h.Role]++
	r.heard[m.ID], r.joined[m.ID], r.moves[m.ID] = now, now, Moved{At: now}
	if m.Role == Expert {
		r.forgetReached()
	} else {
		m.Placement = r.view.Placement.Version // it has not heard of an older one
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
	if place >= maxMembers {
		return 0, fmt.Errorf("there are %d %s nodes, the most that there can be", place, h.Role)
	}
	return place, nil
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

// Progress notes a sign of life that tells how far the member is.
func (r *Registry) Progress(id string, p Progress, now time.Time) error {
	if err := r.Heard(id, now); err != nil {
		return err
	}
	at := r.moves[id].At
	if p.Loaded != r.moves[id].Loaded || p.Steps != r.moves[id].Steps {
		at = now
	}
	r.moves[id] = Moved{p, at}
	return nil
}

// Moved tells how far a member is, and since when.
func (r *Registry) Moved(id string) (Moved, bool) {
	m, ok := r.moves[id]
	return m, ok
}

// Leave removes a member that says goodbye, and says whether it was one.
func (r *Registry) Leave(id string) bool { return r.Remove(id, "it has left") }

// Remove removes a member for a reason, in words that follow its id, and says
// whether it was one.
func (r *Registry) Remove(id, reason string) bool {
	i := r.find(id)
	if i < 0 {
		return false
	}
	r.view.Members = slices.Delete(r.view.Members, i, i+1)
	delete(r.heard, id)
	delete(r.moves, id)
	delete(r.joined, id)
	r.gone = append(r.gone, departure{id, reason})
	if len(r.gone) > rememberedDepartures {
		r.gone = r.gone[1:]
	}
	r.view.Version++
	r.forgetPairs(id)
	return true
}

// Gone says why a member is gone, or nothing where it is not, or has been for long.
func (r *Registry) Gone(id string) string {
	for _, d := range slices.Backward(r.gone) {
		if d.id == id {
			return d.reason
		}
	}
	return ""
}

// Expire removes the members that have been silent for the timeout, and those that
// load nothing and are not ready, and returns their ids.
func (r *Registry) Expire(now time.Time) []string {
	var lost []string
	for _, m := range r.View().Members {
		if reason := r.expired(m, now); reason != "" {
			lost = append(lost, m.ID)
			r.Remove(m.ID, reason)
		}
	}
	return lost
}

// expired says why a member has to go, or nothing.
func (r *Registry) expired(m Member, now time.Time) string {
	switch {
	case now.Sub(r.heard[m.ID]) > r.timeout:
		return fmt.Sprintf("nothing was heard of it for %v", r.timeout)
	case !m.Ready && now.Sub(r.moves[m.ID].At) > loadPatience:
		return fmt.Sprintf("it is not ready, and has loaded nothing for %v", loadPatience)
	case !m.Ready && now.Sub(r.joined[m.ID]) > loadLimit:
		return fmt.Sprintf("it is not ready %v after it joined", loadLimit)
	}
	return ""
}

func (r *Registry) find(id string) int {
	return slices.IndexFunc(r.view.Members, func(m Member) bool { return m.ID == id })
}
