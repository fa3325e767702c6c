package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/tandem-moe/tandem/internal/clip"
)

// Unreached is an attention node that has no connection with an expert node,
// though both are members, and why.
type Unreached struct {
	Attention, Expert string // ids
	Reason            string
}

// What the front end passes on to every member and every client: bytes of what a node
// says of a peer, and pairs that fail. Of a cluster whose network is down as a whole
// nobody reads more.
const (
	maxReason = 256
	maxPairs  = 128
)

// cleaned is a reason that fits into a line, of a terminal too.
func cleaned(reason string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, clip.Text(strings.ToValidUTF8(reason, ""), maxReason))
}

// Reach notes which expert nodes an attention node cannot reach. None: it is
// connected with all of them.
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

// unreachedWith is the pairs that fail where those of an attention node are other
// ones. It may tell of expert nodes that have left meanwhile: those do not count.
func (r *Registry) unreachedWith(id string, failing []Unreached) []Unreached {
	pairs := slices.DeleteFunc(slices.Clone(r.view.Unreached), func(u Unreached) bool { return u.Attention == id })
	for _, u := range failing {
		if i := r.find(u.Expert); i >= 0 && r.view.Members[i].Role == Expert {
			pairs = append(pairs, Unreached{Attention: id, Expert: u.Expert, Reason: cleaned(u.Reason)})
		}
	}
	return pairs[:min(len(pairs), maxPairs)]
}

// setUnreached makes a new version of the view where it differs.
func (r *Registry) setUnreached(pairs []Unreached) {
	if !slices.Equal(pairs, r.view.Unreached) {
		r.view.Unreached = pairs
		r.view.Version++
	}
}

// forgetPairs takes the pairs of a member out that has left.
func (r *Registry) forgetPairs(id string) {
	r.setUnreached(slices.DeleteFunc(slices.Clone(r.view.Unreached),
		func(u Unreached) bool { return u.Attention == id || u.Expert == id }))
}

// forgetReached makes the attention nodes say anew that they reach every expert
// node: there is another one.
func (r *Registry) forgetReached() {
	for i := range r.view.Members {
		r.view.Members[i].Reached = false
	}
}

// Describe says in words that a pair fails.
func (v View) Describe(u Unreached) string {
	expert, _ := v.Find(u.Expert)
	_, address, _ := strings.Cut(expert.Addr, ":") // after the transports
	return fmt.Sprintf("%s cannot reach %s at %s: %s", u.Attention, u.Expert, address, u.Reason)
}

// UnreachedBy are the pairs that fail and that a member belongs to.
func (v View) UnreachedBy(id string) []Unreached {
	return slices.DeleteFunc(slices.Clone(v.Unreached), func(u Unreached) bool {
		return u.Attention != id &&
			u.Expert != id
	})
}

// maxDescribed bounds the pairs that a sentence tells of.
const maxDescribed = 3

// DescribeAll says in a sentence that pairs fail.
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
