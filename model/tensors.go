package model

import (
	"fmt"
	"slices"
	"strings"
)

// Ref names a weight in a checkpoint: a whole tensor, or a part of one that is
// contiguous in row-major order. The zero Ref is a weight that the model does
// not have.
type Ref struct {
	// Name and Whole are the tensor's name and shape in the file.
	Name  string
	Whole []int
	// Shape is the weight's own: [out, in] of a matrix, [n] of a vector.
	Shape []int
	// Offset is the element of the tensor that the weight starts at.
	Offset int64
}

// Present says whether the model has the weight.
func (r Ref) Present() bool { return r.Name != "" }

// Elements is the product of the weight's shape.
func (r Ref) Elements() int64 { return elements(r.Shape) }

func elements(shape []int) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= int64(d)
	}
	return n
}

// MLP is a SwiGLU: down(silu(gate(x)) · up(x)).
type MLP struct {
	Gate, Up Ref // [intermediate, hidden]
	Down     Ref // [hidden, intermediate]

	GateBias, UpBias Ref // [intermediate]
	DownBias         Ref // [hidden]
}

// LayerTensors are one layer's weights. Those that it does not have are absent:
// biases, QK norms, the router and experts of a dense layer, the MLP of a sparse
// one.
type LayerTensors struct {
	InputNorm, PostNorm        Ref // [hidden]
	Q                          Ref // [heads·headDim, hidden]
	K                          Ref // [kvHeads·headDim, hidden]
	V                          Ref // [kvHeads·valueDim, hidden]
	O                          Ref // [hidden, heads·valueDim]
	QBias, KBias, VBias, OBias Ref // [out]
	QNorm, KNorm               Ref // [headDim], or [out] of the projection
	Sinks                      Ref // [heads]
	Router                     Ref // [experts, hidden]
	RouterBias                 Ref // [experts]
	Dense                      MLP
	Experts                    []MLP // by expert
}

// Catalogue is where a model's weights are in a checkpoint.
type Catalogue struct {
	Embedding Ref // [vocabulary, hidden]
	FinalNorm Ref // [hidden]
	Head      Ref // [vocabulary, hidden]; the embedding where they are tied
	Layers    []LayerTensors

	spec *Spec
}

// names are the parts of a family's tensor names. A layout is a way to name a
// sparse block: published checkpoints have one tensor per expert and matrix,
// and what transformers 5 holds in memory (and may save) joins a layer's experts
// in two tensors.
type names struct{ layouts []layout }

type layout struct {
	block          string // of a layer: "mlp"
	gate, up, down string // of an expert, where its matrices are apart
	gateUp         string // [experts, 2·intermediate, hidden], gate first
	downs          string // [experts, hidden, intermediate]
}

var (
	apartLayout = layout{block: "mlp", gate: "gate_proj.weight", up: "up_proj.weight", down: "down_proj.weight"}
	fusedLayout = layout{block: "mlp", gateUp: "gate_up_proj", downs: "down_proj"}

	qwenNames    = names{[]layout{apartLayout, fusedLayout}}
	mixtralNames = names{[]layout{
		{block: "block_sparse_moe", gate: "w1.weight", up: "w3.weight", down: "w2.weight"},
		fusedLayout,
	}}
)

// expert names one expert's matrices; i and h are its widths.
func (l layout) expert(prefix string, e, experts, i, h int) MLP {
	p := prefix + l.block + ".experts."
	if l.gateUp == "" {
		p += fmt.Sprint(e) + "."
		return MLP{Gate: whole(p+l.gate, i, h), Up: whole(p+l.up, i, h), Down: whole(p+l.down, h, i)}
	}
	joint, down := []int{experts, 2 * i, h}, []int{experts, h, i}
	size := int64(i) * int64(h)
	at := int64(e) * 2 * size
	return MLP{
		Gate: Ref{Name: p + l.gateUp, Whole: joint, Shape: []int{i, h}, Offset: at},
		Up:   Ref{Name: p + l.gateUp, Whole: joint, Shape: []int{i, h}, Offset: at + size},
		Down: Ref{Name: p + l.downs, Whole: down, Shape: []int{h, i}, Offset: int64(e) * size},
	}
}

// expertBiases names one expert's biases, which lie beside its matrices.
func (l layout) expertBiases(m *MLP, prefix string, e, experts, i, h int) {
	p := prefix + l.block + ".experts."
	if l.gateUp == "" {
		p += fmt.Sprint(e) + "."
		bias := func(matrix string, n int) Ref { return whole(p+strings.TrimSuffix(matrix, "weight")+"bias", n) }
		m.GateBias, m.UpBias, m.DownBias = bias(l.gate, i), bias(l.up, i), bias(l.down, h)
		return
	}
	joint := Ref{Name: p + l.gateUp + "_bias", Whole: []int{experts, 2 * i}, Shape: []int{i},
		Offset: int64(e) * 2 * int64(i)}
	m.GateBias, m.UpBias = joint, joint
	m.UpBias.Offset += int64(i)
	m.DownBias = Ref{Name: p + l.downs + "_bias", Whole: []int{experts, h}, Shape: []int{h},
		Offset: int64(e) * int64(h)}
}

func whole(name string, shape ...int) Ref { return Ref{Name: name, Whole: shape, Shape: shape} }

// headName is the head's matrix.
const headName = "lm_head.weight"

// Catalogue names the model's weights. has says whether the checkpoint holds a
// tensor; it decides between layouts, by any tensor that only one of them has: a
// node's checkpoint may lack those of others. It is an error where no layout
// fits; other missing tensors are found by [Catalogue.Check].
func (s *Spec) Catalogue(has func(name string) bool) (*Catalogue, error) {
	l, err := s.layout(has)
	if err != nil {
		return nil, err
	}
	return s.catalogue(l), nil
}

// catalogue names the weights in a layout.
func (s *Spec) catalogue(l layout) *Catalogue {
	c := &Catalogue{
		Embedding: whole("model.embed_tokens.weight", s.Vocabulary, s.Hidden),
		FinalNorm: whole("model.norm.weight", s.Hidden),
		Layers:    make([]LayerTensors, len(s.Layers)),
		spec:      s,
	}
	c.Untie()
	if s.TiedHead {
		c.Head = c.Embedding
	}
	for i := range c.Layers {
		c.Layers[i] = s.layerTensors(l, i)
	}
	return c
}

// Untie gives the head its own matrix, whatever the configuration says.
func (c *Catalogue) Untie() { c.Head = whole(headName, c.spec.Vocabulary, c.spec.Hidden) }

// HeadName is the tensor that a head has where it is not tied.
func (c *Catalogue) HeadName() string { return headName }

// Tied says whether the head's matrix is the embedding's.
func (c *Catalogue) Tied() bool { return c.Head.Name == c.Embedding.Name }

// layout finds the first one with an expert in the checkpoint, or else with a
// router, which is all that an attention node needs of a sparse block.
func (s *Spec) layout(has func(string) bool) (layout, error) {
	layouts, sparse := families[s.Family].names.layouts, s.SparseLayers()
	for _, l := range layouts {
		if slices.ContainsFunc(sparse, func(i int) bool { return s.hasExpert(l, i, has) }) {
			return l, nil
		}
	}
	for _, l := range layouts {
		if slices.ContainsFunc(sparse, func(i int) bool { return has(layerPrefix(i) + l.block + ".gate.weight") }) {
			return l, nil
		}
	}
	var tried []string
	for _, l := range layouts {
		tried = append(tried, s.downName(l, sparse[0], 0))
	}
	return layout{}, fmt.Errorf("the checkpoint has no experts and no router under a name known for %s: none like %q is there", s.Family, tried)
}

// hasExpert says whether the checkpoint has any of a layer's experts in a layout.
func (s *Spec) hasExpert(l layout, i int, has func(string) bool) bool {
	for e := range s.Router.Experts {
		if has(s.downName(l, i, e)) {
			return true
		}
		if l.gateUp != "" {
			return false // all experts are in one tensor
		}
	}
	return false
}

// downName is the tensor of an expert's down projection.
func (s *Spec) downName(l layout, i, e int) string {
	return l.expert(layerPrefix(i), e, s.Router.Experts, s.ExpertIntermediate, s.Hidden).Down.Name
}

func layerPrefix(i int) string { return fmt.Sprintf("model.layers.%d.", i) }

func (s *Spec) layerTensors(l layout, i int) LayerTensors {
	p := layerPrefix(i)
	t := LayerTensors{
		InputNorm: whole(p+"input_layernorm.weight", s.Hidden),
		PostNorm:  whole(p+"post_attention_layernorm.weight", s.Hidden),
	}
	s.attentionTensors(p+"self_attn.", s.AttentionOf(i), &t)
	if !s.Layers[i].Sparse {
		d := s.DenseIntermediate
		t.Dense = MLP{
			Gate: whole(p+"mlp.gate_proj.weight", d, s.Hidden),
			Up:   whole(p+"mlp.up_proj.weight", d, s.Hidden),
			Down: whole(p+"mlp.down_proj.weight", s.Hidden, d),
		}
		return t
	}
	t.Router = whole(p+l.block+".gate.weight", s.Router.Experts, s.Hidden)
	if s.Router.Bias {
		t.RouterBias = whole(p+l.block+".gate.e_score_correction_bias", s.Router.Experts)
	}
	t.Experts = make([]MLP, s.Router.Experts)
	for e := range t.Experts {
		t.Experts[e] = l.expert(p, e, s.Router.Experts, s.ExpertIntermediate, s.Hidden)
		if s.ExpertBias {
			l.expertBiases(&t.Experts[e], p, e, s.Router.Experts, s.ExpertIntermediate, s.Hidden)
		}
	}
	return t
}

func (s *Spec) attentionTensors(p string, a *Attention, t *LayerTensors) {
	q, k, v := a.Heads*a.HeadDim, a.KVHeads*a.HeadDim, a.KVHeads*a.ValueWidth()
	t.Q, t.QBias = projection(p+"q_proj", q, s.Hidden, a.Bias.Q)
	t.K, t.KBias = projection(p+"k_proj", k, s.Hidden, a.Bias.K)
	t.V, t.VBias = projection(p+"v_proj", v, s.Hidden, a.Bias.V)
	t.O, t.OBias = projection(p+"o_proj", s.Hidden, a.Heads*a.ValueWidth(), a.Bias.O)
	if a.Sinks {
		t.Sinks = whole(p+"sinks", a.Heads)
	}
	switch a.QKNorm {
	case PerHead:
		t.QNorm, t.KNorm = whole(p+"q_norm.weight", a.HeadDim), whole(p+"k_norm.weight", a.HeadDim)
	case WholeProjection:
		t.QNorm, t.KNorm = whole(p+"q_norm.weight", q), whole(p+"k_norm.weight", k)
	}
}

func projection(name string, out, in int, bias bool) (w, b Ref) {
	if bias {
		b = whole(name+".bias", out)
	}
	return whole(name+".weight", out, in), b
}
