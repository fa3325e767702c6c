package cluster

import (
	"fmt"
	"slices"
	"time"

	"github.com/tandem-moe/tandem/internal/tandemv1"
)

// Placement says which expert node holds which experts. Experts is in package route's
// encoding, which this package does not read: it only knows which nodes hold and use
// which Version. Version 0 means no placement.
type Placement struct {
	Version uint64
	Experts []byte
}

// A placement comes into use in three steps, which the nodes see in views:
//
//  1. It is proposed: expert nodes load the experts that they miss, and say that they
//     hold the placement.
//  2. Once every place's node holds it, it is current. Attention nodes split the rows of
//     their next steps by it, and say when none of their steps uses an older one.
//  3. Once all attention nodes have said so, expert nodes free the experts that only
//     older placements need.
//
// The first placement of a cluster takes the same steps.

// Propose asks the expert nodes to hold a placement, which becomes current once they do.
// It replaces an earlier proposal that is not current yet. It returns the new version.
func (r *Registry) Propose(experts []byte) (uint64, error) {
	if len(experts) == 0 || len(experts) > tandemv1.MaxPlacement {
		return 0, fmt.Errorf("a placement of %d bytes, want 1 to %d", len(experts), tandemv1.MaxPlacement)
	}
	r.proposed++
	r.view.Next = Placement{Version: r.proposed, Experts: slices.Clone(experts)}
	r.view.Version++
	return r.proposed, nil
}

// Proposed returns the placement of a version that a member says it holds; without
// Experts where the placement has been given up meanwhile.
func (r *Registry) Proposed(version uint64) (Placement, error) {
	for _, p := range []Placement{r.view.Placement, r.view.Next} {
		if p.Version == version && version > 0 {
			return p, nil
		}
	}
	if version == 0 || version > r.proposed {
		return Placement{}, fmt.Errorf("placement %d has not been proposed, the last one is %d", version, r.proposed)
	}
	return Placement{Version: version}, nil
}

// Ready marks a member's weights as loaded. An expert node's are those for a placement,
// which becomes current when the last expert node holds it.
func (r *Registry) Ready(id string, placement uint64, now time.Time) error {
	if err := r.mark(id, now, func(m *Member) {
		m.Ready = true
		if m.Role == Expert {
			m.Placement = max(m.Placement, placement)
		}
	}); err != nil {
		return err
	}
	r.promote()
	return nil
}

// Placed records that no step of an attention node uses a placement before a version.
func (r *Registry) Placed(id string, placement uint64, now time.Time) error {
	if i := r.find(id); i >= 0 && r.view.Members[i].Role != Attention {
		return fmt.Errorf("node %s is no attention node, and tells by which placement it splits rows", id)
	}
	if current := r.view.Placement.Version; placement > current {
		return fmt.Errorf("node %s splits rows by placement %d, the cluster by %d", id, placement, current)
	}
	return r.mark(id, now, func(m *Member) { m.Placement = max(m.Placement, placement) })
}

// promote makes the proposed placement current if the nodes of all places hold it.
func (r *Registry) promote() {
	next := r.view.Next.Version
	if next == 0 || len(r.view.lacking(next)) > 0 || len(r.view.Of(Expert)) < r.view.ExpertNodes {
		return
	}
	r.view.Placement, r.view.Next = r.view.Next, Placement{}
	r.view.Version++
}

// lacking lists the expert nodes that do not hold a placement.
func (v View) lacking(version uint64) []string {
	var ids []string
	for _, m := range v.Of(Expert) {
		if m.Placement < version {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// Using lists the attention nodes whose steps may use a placement of the version, or an
// older one.
func (v View) Using(version uint64) []string {
	var ids []string
	for _, m := range v.Of(Attention) {
		if m.Placement <= version {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// Left says that a placement is no longer needed: a newer one is current, and no
// attention node's step uses this one or an older one.
func (v View) Left(version uint64) bool {
	return v.Placement.Version > version && len(v.Using(version)) == 0
}

// Pending says in words what a proposed placement still waits for before it is the only
// one in use; "" where it is.
func (v View) Pending(version uint64) string {
	lacking := v.lacking(version)
	missing := v.ExpertNodes - len(v.Of(Expert))
	switch {
	case v.Placement.Version > version || v.Placement.Version < version && v.Next.Version != version:
		return fmt.Sprintf("it was given up for placement %d", max(v.Placement.Version, v.Next.Version))
	case v.Placement.Version == version && !v.Left(version-1):
		return fmt.Sprintf("an older one is used by %v", v.Using(version-1))
	case v.Placement.Version == version:
		return ""
	case missing > 0:
		return fmt.Sprintf("%d of %d expert nodes are missing", missing, v.ExpertNodes)
	}
	return fmt.Sprintf("it is not held yet by %v", lacking)
}

// Propose is [Registry.Propose].
func (s *Server) Propose(experts []byte) (version uint64, err error) {
	err = s.update(func(r *Registry) (err error) {
		version, err = r.Propose(experts)
		return err
	})
	return version, err
}

// proposed is [Registry.Proposed].
func (s *Server) proposed(version uint64) (Placement, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registry.Proposed(version)
}
