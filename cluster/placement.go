package cluster

import (
	"fmt"
	"slices"
	"time"

	"github.com/tandem-moe/tandem/internal/tandemv1"
)

// Placement is a version of which expert node holds which experts. A cluster knows
// who holds it and who uses it; what it says is package route's business, whose
// encoding Experts is: membership works the same whatever nodes hold. Version 0 is none.
type Placement struct {
	Version uint64
	Experts []byte
}

// A placement comes into use in three steps, which views tell of:
//
//  1. It is proposed: expert nodes load what they miss, and say that they hold it.
//  2. Once every place's node holds it, it is current. Attention nodes split the rows of
//     their next steps by it, and say when no step uses an older one.
//  3. Once all of them have, nobody needs an older one, and expert nodes give back what
//     only that wanted.
//
// The first placement of a cluster goes the same way.

// Propose has the expert nodes hold a placement, which becomes current once they do. One
// that was proposed before and is not current is given up. It returns the version.
func (r *Registry) Propose(experts []byte) (uint64, error) {
	if len(experts) == 0 || len(experts) > tandemv1.MaxPlacement {
		return 0, fmt.Errorf("a placement of %d bytes, want 1 to %d", len(experts), tandemv1.MaxPlacement)
	}
	r.proposed++
	r.view.Next = Placement{Version: r.proposed, Experts: slices.Clone(experts)}
	r.view.Version++
	return r.proposed, nil
}

// Proposed returns the placement of a version that a member says that it holds; without
// Experts where that has been given up meanwhile.
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

// Ready marks a member's weights as loaded; those of an expert node are its part of a
// placement, which becomes current with the last node that holds it.
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

// Placed notes that no step of an attention node uses a placement before a version.
func (r *Registry) Placed(id string, placement uint64, now time.Time) error {
	if i := r.find(id); i >= 0 && r.view.Members[i].Role != Attention {
		return fmt.Errorf("node %s is no attention node, and tells by which placement it splits rows", id)
	}
	if current := r.view.Placement.Version; placement > current {
		return fmt.Errorf("node %s splits rows by placement %d, the cluster by %d", id, placement, current)
	}
	return r.mark(id, now, func(m *Member) { m.Placement = max(m.Placement, placement) })
}

// promote makes the proposed placement current where the nodes of all places hold it.
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

// Left says that a placement is needed no more: another is current, and no attention
// node uses it.
func (v View) Left(version uint64) bool {
	return v.Placement.Version > version && len(v.Using(version)) == 0
}

// Pending says in words what keeps a proposed placement from being all that is used, or
// nothing where it is.
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
