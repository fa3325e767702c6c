package model

import (
	"fmt"
	"slices"
)

// Part is one of the two parts of a layer, and of a model.
type Part uint8

// The parts.
const (
	// AttentionPart is everything but experts: embedding, attention, norms,
	// routers, the MLP of dense layers, head.
	AttentionPart Part = iota
	// ExpertPart is experts alone.
	ExpertPart
)

// String returns "attention" or "expert".
func (p Part) String() string {
	if p == AttentionPart {
		return "attention"
	}
	return "expert"
}

// Role is what a node does for a model.
type Role struct {
	Part Part
	// Experts are those that an expert node holds, by layer: none in a dense one.
	Experts [][]int
}

// Refs lists the weights that a role needs, each tensor or part once.
func (c *Catalogue) Refs(r Role) ([]Ref, error) {
	if r.Part == AttentionPart {
		return c.attention(), nil
	}
	var list []Ref
	for i, experts := range r.Experts {
		if i >= len(c.Layers) && len(experts) > 0 {
			return nil, fmt.Errorf("there is no layer %d with experts: the model has %d", i, len(c.Layers))
		}
		for j, e := range experts {
			of := c.Layers[i].Experts
			if e < 0 || e >= len(of) {
				return nil, fmt.Errorf("layer %d has no expert %d: it has %d", i, e, len(of))
			}
			if slices.Contains(experts[:j], e) {
				return nil, fmt.Errorf("expert %d of layer %d is given twice", e, i)
			}
			list = append(list, of[e].refs()...)
		}
	}
	return list, nil
}

// Weights lists what a role computes with, in an order that is the same for all
// checkpoints of the model: as Refs does, and with the head in its place also
// where it is the embedding.
func (c *Catalogue) Weights(r Role) ([]Ref, error) {
	list, err := c.Refs(r)
	if err == nil && r.Part == AttentionPart && c.Tied() {
		list = slices.Insert(list, headPlace, c.Head)
	}
	return list, err
}

// headPlace is the head's place among the weights of attention.
const headPlace = 2

// WeightNames are the names of a role's weights in their order, as a published
// checkpoint has them, whatever the layout of the one at hand.
func (s *Spec) WeightNames(r Role) ([]string, error) {
	c := s.catalogue(families[s.Family].names.layouts[0])
	c.Untie()
	refs, err := c.Weights(r)
	names := make([]string, len(refs))
	for i, ref := range refs {
		names[i] = ref.Name
	}
	return names, err
}

// AllExperts is the role of a node that holds every expert.
func (s *Spec) AllExperts() Role {
	all := make([]int, s.Router.Experts)
	for e := range all {
		all[e] = e
	}
	r := Role{Part: ExpertPart, Experts: make([][]int, len(s.Layers))}
	for _, l := range s.SparseLayers() {
		r.Experts[l] = all
	}
	return r
}

// refs lists the MLP's weights, those that it has.
func (m MLP) refs() []Ref {
	return present(m.Gate, m.Up, m.Down, m.GateBias, m.UpBias, m.DownBias)
}

func present(refs ...Ref) []Ref {
	return slices.DeleteFunc(refs, func(r Ref) bool { return !r.Present() })
}

func (c *Catalogue) attention() []Ref {
	list := []Ref{c.Embedding, c.FinalNorm}
	if !c.Tied() {
		list = append(list, c.Head)
	}
	for _, l := range c.Layers {
		list = append(list, present(l.InputNorm, l.PostNorm, l.Q, l.K, l.V, l.O, l.QBias, l.KBias, l.VBias, l.OBias, l.QNorm, l.KNorm,
			l.Sinks, l.Router, l.RouterBias)...)
		list = append(list, l.Dense.refs()...)
	}
	return list
}
