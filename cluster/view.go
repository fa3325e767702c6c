// Package cluster keeps the members of a cluster: each member's role, address, place
// and epoch, as versioned snapshots, and the protocol by which nodes join a front end.
// It may not know models or how a node computes.
package cluster

import (
	"fmt"
	"strings"
)

// Role is the part of a layer that a node computes.
type Role string

// Roles.
const (
	Attention Role = "attention"
	Expert    Role = "expert"
)

// ParseRole reads a role's name.
func ParseRole(s string) (Role, error) {
	switch r := Role(s); r {
	case Attention, Expert:
		return r, nil
	}
	return "", fmt.Errorf("role %q: want %q or %q", s, Attention, Expert)
}

// Identity is what all nodes of a cluster must agree on.
type Identity struct {
	// Version is the program's version.
	Version string
	// Model is a hash of the model's configuration. Weights are compared by [Judge].
	Model string
	// Layers, Experts and TopK are the model's numbers of layers, of experts per layer
	// and of experts per token.
	Layers, Experts, TopK int
	// Numerics names the arithmetic that no setting changes: docs/design.md, "Numerics".
	Numerics string
}

// MismatchError says in which field a node differs from the cluster.
type MismatchError struct {
	Field         string
	Cluster, Node string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s: the cluster has %s, the node %s", e.Field, e.Cluster, e.Node)
}

// Match compares a node's identity with the cluster's; the error is a
// *MismatchError.
func (id Identity) Match(node Identity) error {
	for _, f := range []struct {
		field         string
		cluster, node any
	}{
		{"version", id.Version, node.Version},
		{"layers", id.Layers, node.Layers},
		{"experts", id.Experts, node.Experts},
		{"top-k", id.TopK, node.TopK},
		{"numerics", id.Numerics, node.Numerics},
		{"model", id.Model, node.Model},
	} {
		if f.cluster != f.node {
			return &MismatchError{Field: f.field, Cluster: fmt.Sprint(f.cluster), Node: fmt.Sprint(f.node)}
		}
	}
	return nil
}

// Hello is what a node says of itself when it joins.
type Hello struct {
	Role Role
	// Addr is the address for its peers, as [ParseAddr] takes it.
	Addr     string
	Identity Identity
	// Place is the place that an expert node wants, because it still holds that place's
	// experts; AnyPlace where any will do.
	Place int
	// Wire and Combine are the settings that the cluster must have for the node to
	// join; an empty one allows any.
	Wire, Combine string
}

// Progress is how far a node has come. It tells a node that works from one that is
// alive but stands still.
type Progress struct {
	// Loaded is how many bytes of weights the node has loaded. Steps is a counter that
	// rises with everything that its loop does.
	Loaded, Steps uint64
	// Awaited are the ids of the members whose answers its loop waits for.
	Awaited []string
	// Action is the action that its loop is at, in the syntax of package schedule and
	// without a step; empty where it is at none.
	Action string
}

// AnyPlace is the Place of a node that takes any place.
const AnyPlace = -1

// Member is one node of a view.
type Member struct {
	// ID names the member; no other member ever gets it.
	ID   string
	Role Role
	// Addr is the address for its peers, as [ParseAddr] takes it.
	Addr string
	// Epoch numbers memberships: a node that left and joined again has a higher one,
	// and its peers drop frames of the lower one.
	Epoch uint64
	// Place is the member's place among those of its role, from 0; it decides which
	// experts an expert node has.
	Place int
	// Ready says that the member's weights are loaded and equal the cluster's.
	Ready bool
	// Draining says that the member is about to stop, and stays only for requests that
	// run.
	Draining bool
	// Reached says that an attention node is connected with every expert node.
	Reached bool
	// Placement is a version. On an expert node it is the newest placement whose experts
	// it holds; on an attention node the oldest that its steps may use.
	Placement uint64
}

// Settings are what the front end decides for all nodes.
type Settings struct {
	// ExpertNodes is how many places the experts are spread over; MicroBatches is how
	// many micro-batches each attention node has in flight.
	ExpertNodes, MicroBatches int
	// MaxModelLen bounds a sequence, MaxBatchedTokens a micro-batch's step, in
	// tokens.
	MaxModelLen, MaxBatchedTokens int
	// Wire names the format of rows between nodes, and Combine where results are added
	// up, in the names of package route. Results depend on both, so all nodes must
	// have the same.
	Wire, Combine string
}

// match compares the settings with those that a node wants; the error is a
// *MismatchError.
func (s Settings) match(h Hello) error {
	for _, f := range []struct{ field, cluster, node string }{
		{"wire", s.Wire, h.Wire},
		{"combine", s.Combine, h.Combine},
	} {
		if f.node != "" && f.node != f.cluster {
			return &MismatchError{Field: f.field, Cluster: f.cluster, Node: f.node}
		}
	}
	return nil
}

// View is a snapshot of the cluster. Version rises with every change.
type View struct {
	Version uint64
	Settings
	Members []Member
	// Placement is the current placement, by which attention nodes split the rows of new
	// steps. Next is a proposed one, which expert nodes shall hold beside it. Either may
	// be zero.
	Placement, Next Placement
	// Unreached are the pairs of attention and expert node that could not connect.
	Unreached []Unreached
}

// Find returns the member with the given id.
func (v View) Find(id string) (Member, bool) {
	for _, m := range v.Members {
		if m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

// Of returns the members of a role, by place.
func (v View) Of(r Role) []Member {
	var members []Member
	for _, m := range v.Members {
		if m.Role == r {
			members = append(members, m)
		}
	}
	return members
}

// Missing says in words what keeps the cluster from taking requests: nodes that are
// absent, not ready, not connected or about to stop. It returns "" where the cluster
// takes requests: every expert place has a ready node, and at least one attention node
// has reached all of them.
func (v View) Missing() string {
	ready, reached := map[Role]int{}, false
	var missing, draining []string
	for _, m := range v.Members {
		switch {
		case m.Draining:
			draining = append(draining, m.ID)
		case m.Ready:
			ready[m.Role]++
			reached = reached || m.Reached
		}
	}
	if n := ready[Attention]; n == 0 {
		missing = append(missing, "no attention node is ready")
	}
	if n := ready[Expert]; n < v.ExpertNodes {
		missing = append(missing, fmt.Sprintf("%d of %d expert nodes are ready", n, v.ExpertNodes))
	}
	if len(missing) == 0 && !reached {
		why := " yet"
		if len(v.Unreached) > 0 {
			why = ": " + v.DescribeAll(v.Unreached)
		}
		missing = append(missing, "no attention node has reached all expert nodes"+why)
	}
	text := strings.Join(missing, ", ")
	if text != "" && len(draining) > 0 {
		text += " (about to stop: " + strings.Join(draining, ", ") + ")"
	}
	return text
}
