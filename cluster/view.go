// Package cluster owns who is there: the members of a cluster, with their part,
// address, share of the experts and epoch, as versioned snapshots, and the
// protocol by which nodes join a front end. It may not know models or how a
// part computes.
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
	// Version is the program's.
	Version string
	// Model is the hash of configuration and weights.
	Model string
	// Layers, Experts and TopK are the model's.
	Layers, Experts, TopK int
	// Numerics names the arithmetic that no setting changes: docs/design.md, "Numerics".
	Numerics string
}

// MismatchError is a node that does not fit the cluster.
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
	// Addr is where its peers reach it, in m2n's words.
	Addr     string
	Identity Identity
	// Place is the one that the node would rather have, of experts that it still
	// holds; AnyPlace where it has no wish.
	Place int
	// Wire and Combine are what the cluster must have set for the node to join;
	// empty where it takes any.
	Wire, Combine string
}

// Progress is how far a node is. A node that lives and does not move is told by it
// from one that works.
type Progress struct {
	// Loaded is the bytes of weights that it has loaded, Steps a counter that rises
	// with whatever its loop does.
	Loaded, Steps uint64
	// Awaited are the ids of the members whose answers its loop waits for.
	Awaited []string
	// Action is the action that its loop is at, in the words of package schedule
	// and without a step; empty where it is at none.
	Action string
}

// AnyPlace is no wish for a place.
const AnyPlace = -1

// Member is one node of a view.
type Member struct {
	// ID names the node; it is never given to another one.
	ID   string
	Role Role
	// Addr is where its peers reach it, in m2n's words.
	Addr string
	// Epoch is the node's incarnation: a node that left and came back has a
	// higher one, and frames of the older are dropped.
	Epoch uint64
	// Place is the node's place among those of its role: an expert node's place
	// tells its experts.
	Place int
	// Ready: its weights are loaded.
	Ready bool
	// Draining: it is about to stop, and stays only for the requests that run.
	Draining bool
	// Reached, of an attention node: it is connected with every expert node.
	Reached bool
	// Placement is a version: of an expert node the newest of which it holds its part,
	// of an attention node the oldest that its steps may use.
	Placement uint64
}

// Settings are what the front end decides for all nodes.
type Settings struct {
	// ExpertNodes is how many places the experts are spread over; MicroBatches
	// how many each attention node has in flight.
	ExpertNodes, MicroBatches int
	// MaxModelLen bounds a sequence, MaxBatchedTokens a micro-batch's step, in
	// tokens.
	MaxModelLen, MaxBatchedTokens int
	// Wire says how rows travel between nodes, and Combine where results are added
	// up, in package route's words: all nodes must do the same, since results
	// depend on it.
	Wire, Combine string
}

// match compares what a node insists on with the settings; the error is a
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
	// Placement is by which attention nodes split the rows of new steps, Next what
	// expert nodes are to hold beside it; either may be none.
	Placement, Next Placement
	// Unreached are the attention and expert nodes that are not connected.
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

// Missing says in words which nodes are not there, not ready, not connected or about
// to stop, or nothing where the cluster takes requests: all expert places are filled,
// and one attention node at least has reached them.
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
