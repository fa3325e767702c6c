package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/tandem-moe/tandem/internal/clip"
)

// Unreached says that an attention node has no connection with an expert node although
// both are members, and why.
type Unreached struct {
	Attention, Expert string // ids
	Reason            string
}

// The front end passes failing pairs on to every member and client. maxReason bounds a
// reason in bytes, maxPairs the number of pairs: where the whole network is down,
// nobody would read more.
const (
	maxReason = 256
	maxPairs  = 128
)

// cleaned makes a reason one printable line of at most maxReason bytes.
func cleaned(reason string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, clip.Text(strings.ToValidUTF8(reason, ""), maxReason))
}

// Reach records which expert nodes an attention node cannot reach; none means that it
// is connected with all of them.
func (r *Registry) Reach(id string, failing []Unreached, now time.Time) error {
	i := r.find(id)
	if i >= 0 && r.view.Members[i].Role != Attention {
		return fmt.Errorf("node %s is no attention node, and tells which expert nodes it reaches", id)
	}
	if i >= 0 && !r.view.Members[i].Ready {
		return fmt.Errorf("node %s is not ready, and tells which expert nodes it reaches", id)
	}
	if n := r.view.ExpertNodes; len(failing) > n {
		return fmt.Errorf("node %s cannot reach %d expert nodes, the cluster has %d", id, len(failing), n)
	}
	if err := r.mark(id, now, func(m *Member) { m.Reached = len(failing) == 0 }); err != nil {
		return err
	}
	r.setUnreached(r.unreachedWith(id, failing))
	return nil
}

// unreachedWith returns the failing pairs after those of one attention node are
// replaced. It leaves out expert nodes that have left the cluster meanwhile.
func (r *Registry) unreachedWith(id string, failing []Unreached) []Unreached {
	pairs := slices.DeleteFunc(slices.Clone(r.view.Unreached), func(u Unreached) bool { return u.Attention == id })
	for _, u := range failing {
		if i := r.find(u.Expert); i >= 0 && r.view.Members[i].Role == Expert {
			pairs = append(pairs, Unreached{Attention: id, Expert: u.Expert, Reason: cleaned(u.Reason)})
		}
	}
	return pairs[:min(len(pairs), maxPairs)]
}

// setUnreached sets the failing pairs, and makes a new version of the view if they have
// changed.
func (r *Registry) setUnreached(pairs []Unreached) {
	if !slices.Equal(pairs, r.view.Unreached) {
		r.view.Unreached = pairs
		r.view.Version++
	}
}

// forgetPairs removes the failing pairs of a member that has left.
func (r *Registry) forgetPairs(id string) {
	r.setUnreached(slices.DeleteFunc(slices.Clone(r.view.Unreached),
		func(u Unreached) bool { return u.Attention == id || u.Expert == id }))
}

// forgetReached is for a new expert node: each attention node must say again that it
// reaches all expert nodes.
func (r *Registry) forgetReached() {
	for i := range r.view.Members {
		r.view.Members[i].Reached = false
	}
}

// Describe says in words that a pair fails.
func (v View) Describe(u Unreached) string {
	expert, _ := v.Find(u.Expert)
	_, address, _ := strings.Cut(expert.Addr, ":") // without the transports
	return fmt.Sprintf("%s cannot reach %s at %s: %s", u.Attention, u.Expert, address, u.Reason)
}

// UnreachedBy returns the failing pairs that a member belongs to.
func (v View) UnreachedBy(id string) []Unreached {
	return slices.DeleteFunc(slices.Clone(v.Unreached), func(u Unreached) bool {
		return u.Attention != id &&
			u.Expert != id
	})
}

// maxDescribed bounds the pairs that [View.DescribeAll] describes; it counts the others.
const maxDescribed = 3

// DescribeAll says in one line that pairs fail.
func (v View) DescribeAll(pairs []Unreached) string {
	var words []string
	for _, u := range pairs[:min(len(pairs), maxDescribed)] {
		words = append(words, v.Describe(u))
	}
	if more := len(pairs) - maxDescribed; more > 0 {
		words = append(words, fmt.Sprintf("and %d pairs more", more))
	}
	return strings.Join(words, "; ")
}
