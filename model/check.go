package model

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// shown bounds how many names an error lists.
const shown = 8

// Some joins names for people: the first few, and how many there are more.
func Some(names []string) string {
	if len(names) <= shown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
}

// MissingError is a checkpoint without tensors that the configuration asks for.
type MissingError struct {
	// Names are in the model's order; Shape is the first one's.
	Names []string
	Shape []int
}

func (e *MissingError) Error() string {
	if len(e.Names) == 1 {
		return fmt.Sprintf("the checkpoint has no tensor %s, of shape %v", e.Names[0], e.Shape)
	}
	return fmt.Sprintf("the checkpoint lacks %d tensors that the configuration asks for: %s", len(e.Names), Some(e.Names))
}

// ShapeError is a tensor of another shape than the configuration says.
type ShapeError struct {
	Name        string
	Shape, Want []int
}

func (e *ShapeError) Error() string {
	return fmt.Sprintf("tensor %s has shape %v, and the configuration says %v", e.Name, e.Shape, e.Want)
}

// ForeignError is a checkpoint with tensors that change what is computed, where
// the configuration does not mention them: it is another model's, or the
// configuration is.
type ForeignError struct {
	// Names are sorted; Reasons say of each what the configuration has instead.
	Names, Reasons []string
}

func (e *ForeignError) Error() string {
	list := make([]string, len(e.Names))
	for i, name := range e.Names {
		list[i] = name + " (" + e.Reasons[i] + ")"
	}
	return fmt.Sprintf("the checkpoint has tensors that would change the model's output and that config.json does not account for: %s", Some(list))
}

// Check compares the tensors of a checkpoint, by name and shape, with what roles
// need. A missing tensor (*MissingError), another shape (*ShapeError), and a tensor
// that would change what these roles compute (*ForeignError: a bias, a norm, a
// layer or an expert too many) are errors. Tensors that concern other roles alone
// are not looked at.
func (c *Catalogue) Check(shapes map[string][]int, roles ...Role) error {
	missing, err := c.missing(shapes, roles)
	if err != nil {
		return err
	}
	if err := c.Foreign(shapes, roles...); err != nil {
		return err
	}
	if len(missing) == 0 {
		return nil
	}
	e := &MissingError{Shape: missing[0].Whole}
	for _, ref := range missing {
		e.Names = append(e.Names, ref.Name)
	}
	return e
}

// missing lists the tensors that roles need and that are not there, each once.
// One that is there in another shape is an error.
func (c *Catalogue) missing(shapes map[string][]int, roles []Role) ([]Ref, error) {
	var missing []Ref
	seen := map[string]bool{}
	for _, r := range roles {
		refs, err := c.Refs(r)
		if err != nil {
			return nil, err
		}
		for _, ref := range refs {
			if seen[ref.Name] {
				continue
			}
			seen[ref.Name] = true
			shape, ok := shapes[ref.Name]
			if !ok {
				missing = append(missing, ref)
			} else if !slices.Equal(shape, ref.Whole) {
				return nil, &ShapeError{Name: ref.Name, Shape: shape, Want: ref.Whole}
			}
		}
	}
	return missing, nil
}

// Foreign refuses tensors that would change what roles compute and that the
// configuration does not mention. The error is a *ForeignError.
func (c *Catalogue) Foreign(shapes map[string][]int, roles ...Role) error {
	known := c.names()
	e := &ForeignError{}
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		if known[name] || followsFromConfig(name) {
			continue
		}
		part, reason := c.foreign(name)
		if reason != "" && slices.ContainsFunc(roles, func(r Role) bool { return r.Part == part }) {
			e.Names, e.Reasons = append(e.Names, name), append(e.Reasons, reason)
		}
	}
	if len(e.Names) > 0 {
		return e
	}
	return nil
}

// Unknown lists tensors that belong to no part of the model, sorted: nothing
// reads them, and their names give no reason to think that anything should.
func (c *Catalogue) Unknown(shapes map[string][]int) []string {
	known := c.names()
	var list []string
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		if _, reason := c.foreign(name); !known[name] && !followsFromConfig(name) && reason == "" {
			list = append(list, name)
		}
	}
	return list
}

// names are those of all the model's tensors. A tied head may be saved twice.
func (c *Catalogue) names() map[string]bool {
	names := map[string]bool{headName: true}
	for _, r := range c.all() {
		names[r.Name] = true
	}
	return names
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

// followsFromConfig says that a tensor can be computed from the configuration, and is
// not read therefore: the tables of rotary positions that old checkpoints carry.
func followsFromConfig(name string) bool {
	for _, table := range []string{"inv_freq", "cos_cached", "sin_cached"} {
		if strings.HasSuffix(name, "rotary_emb."+table) {
			return true
		}
	}
	return false
}

// foreign judges a tensor whose name is not in the catalogue: which part of the model
// it would change, and the reason why that part has no such tensor. The reason is
// empty where the name lies outside of the model's own, so that the tensor would
// change nothing.
func (c *Catalogue) foreign(name string) (Part, string) {
	rest, inLayer := strings.CutPrefix(name, "model.layers.")
	if !inLayer {
		if strings.HasPrefix(name, "model.") || strings.HasPrefix(name, "lm_head.") {
			return AttentionPart, "no part of this family"
		}
		return AttentionPart, ""
	}
	number, rest, _ := strings.Cut(rest, ".")
	part := AttentionPart
	if strings.Contains(rest, ".experts.") {
		part = ExpertPart
	}
	layer, err := strconv.Atoi(number)
	switch {
	case err != nil || layer < 0:
		return part, "no layer's number"
	case layer >= len(c.Layers):
		return part, fmt.Sprintf("num_hidden_layers is %d", len(c.Layers))
	}
	return part, c.foreignInLayer(&c.Layers[layer], rest)
}

// foreignInLayer is the reason why a layer has no tensor of a name, which is given
// without the layer's prefix.
func (c *Catalogue) foreignInLayer(l *LayerTensors, name string) string {
	_, expert, isExpert := strings.Cut(name, ".experts.")
	number, _, _ := strings.Cut(expert, ".")
	e, err := strconv.Atoi(number)
	switch {
	case isExpert && l.Experts == nil:
		return "the layer has no experts (decoder_sparse_step, mlp_only_layers)"
	case isExpert && err == nil && e >= len(l.Experts):
		return fmt.Sprintf("the number of experts is %d", len(l.Experts))
	case strings.Contains(name, "shared_expert"):
		return "this family has no shared experts"
	case strings.HasSuffix(name, ".bias") && strings.HasPrefix(name, "self_attn."):
		return fmt.Sprintf("attention_bias is %v", c.spec.Attention.Bias.Q)
	case strings.HasSuffix(name, ".bias"):
		return "this family has no such bias"
	case strings.Contains(name, "norm"):
		return "this family has no such norm"
	case strings.Contains(name, "scale"):
		return "quantised checkpoints are not implemented"
	case isExpert:
		return "the experts are under other names too"
	}
	return "no part of such a layer"
}
