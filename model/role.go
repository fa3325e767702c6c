package model

import (
	"fmt"
	"slices"
	"strings"
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
	// Experts are those that an expert node holds, the same in every sparse
	// layer.
	Experts []int
}

// Refs lists the weights that a role needs, each tensor or part once.
func (c *Catalogue) Refs(r Role) ([]Ref, error) {
	if r.Part == AttentionPart {
		return c.attention(), nil
	}
	var list []Ref
	for i, l := range c.Layers {
		if l.Experts == nil {
			continue
		}
		for j, e := range r.Experts {
			if e < 0 || e >= len(l.Experts) {
				return nil, fmt.Errorf("layer %d has no expert %d: it has %d", i, e, len(l.Experts))
			}
			if slices.Contains(r.Experts[:j], e) {
				return nil, fmt.Errorf("expert %d is given twice", e)
			}
			list = append(list, l.Experts[e].refs()...)
		}
	}
	return list, nil
}

func (m MLP) refs() []Ref { return []Ref{m.Gate, m.Up, m.Down} }

func (c *Catalogue) attention() []Ref {
	list := []Ref{c.Embedding, c.FinalNorm}
	if c.Head.Name != c.Embedding.Name {
		list = append(list, c.Head)
	}
	for _, l := range c.Layers {
		all := []Ref{l.InputNorm, l.PostNorm, l.Q, l.K, l.V, l.O, l.QBias, l.KBias, l.VBias, l.OBias, l.QNorm, l.KNorm, l.Router}
		for _, r := range append(all, l.Dense.refs()...) {
			if r.Present() {
				list = append(list, r)
			}
		}
	}
	return list
}

// Check compares the catalogue with all the tensors of a checkpoint, by name and
// shape. A missing tensor, another shape, and a tensor that this model would not
// use (a bias that the configuration denies, a layer too many) are errors.
func (c *Catalogue) Check(shapes map[string][]int) error {
	used := map[string]bool{}
	for _, r := range c.all() {
		if used[r.Name] {
			continue
		}
		used[r.Name] = true
		shape, ok := shapes[r.Name]
		if !ok {
			return fmt.Errorf("the checkpoint has no tensor %s, of shape %v", r.Name, r.Whole)
		}
		if !slices.Equal(shape, r.Whole) {
			return fmt.Errorf("tensor %s has shape %v, and the configuration says %v", r.Name, shape, r.Whole)
		}
	}
	return unused(shapes, used)
}

// all lists every weight.
func (c *Catalogue) all() []Ref {
	list := c.attention()
	for _, l := range c.Layers {
		for _, e := range l.Experts {
			list = append(list, e.refs()...)
		}
	}
	return list
}

// unused refuses tensors that nothing reads. The frequencies that old
// checkpoints carry follow from the configuration, and a tied head may be saved
// twice.
func unused(shapes map[string][]int, used map[string]bool) error {
	var extra []string
	for name := range shapes {
		if !used[name] && !strings.HasSuffix(name, ".rotary_emb.inv_freq") && name != "lm_head.weight" {
			extra = append(extra, name)
		}
	}
	if len(extra) == 0 {
		return nil
	}
	slices.Sort(extra)
	return fmt.Errorf("the checkpoint has %d tensors that the configuration does not account for, %s the first", len(extra), extra[0])
}
