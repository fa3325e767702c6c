package model

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
)

// Family is a model's architecture, by the model_type of its config.json.
type Family string

// Families that are implemented.
const (
	Mixtral  Family = "mixtral"
	Qwen3MoE Family = "qwen3_moe"
	OLMoE    Family = "olmoe"
)

// Spec describes a mixture-of-experts transformer: pre-norm layers of attention
// and SwiGLU with RMS norms. It is complete: whoever computes the model looks at
// these fields and never at its family. A kind that comes later (shared experts,
// layer norm, latent attention) is a new field whose zero value means what is
// computed today and is left out of the JSON, so that the hashes of other models
// stay.
type Spec struct {
	Family     Family
	Vocabulary int
	Hidden     int
	// NormEps is added to the mean square in every RMS norm.
	NormEps float64
	// TiedHead says that the head's matrix is the embedding's.
	TiedHead bool
	// MaxPositions is the longest sequence in tokens, prompt and output.
	MaxPositions int

	Attention Attention
	Rope      Rope
	Router    Router
	// ExpertIntermediate is the width of each expert, DenseIntermediate that of
	// the MLP in layers without experts (0 where there are none).
	ExpertIntermediate int
	DenseIntermediate  int
	// ExpertBias says that the projections of experts have biases.
	ExpertBias bool `json:",omitzero"`
	// SwiGLU shapes the activation of experts and MLPs.
	SwiGLU SwiGLU `json:",omitzero"`
	Layers []Layer

	// BOS and EOS are token ids from config.json; generation_config.json may have
	// others. Either may be empty.
	BOS []int32
	EOS []int32
	// DType is the type that the configuration tells for the weights
	// ("bfloat16"), for people: each tensor's own counts. Empty where it is not
	// told; no part of the hash.
	DType string `json:"-"`
}

// Attention is grouped-query attention: Heads query heads share KVHeads key and
// value heads. Queries and keys have HeadDim elements, and scores are scaled by
// 1/√HeadDim.
type Attention struct {
	Heads, KVHeads, HeadDim int
	// ValueDim is the elements of a value; 0 means HeadDim.
	ValueDim int `json:",omitzero"`
	QKNorm   QKNorm
	Bias     Biases
	// Clip limits queries (after their norm), keys (likewise) and values to
	// [-Clip, Clip], before RoPE; 0 means off.
	Clip float64
	// Sinks says that each query head has a logit of its own in the softmax's
	// denominator.
	Sinks bool `json:",omitzero"`
}

// ValueWidth is the elements of a value.
func (a *Attention) ValueWidth() int {
	if a.ValueDim == 0 {
		return a.HeadDim
	}
	return a.ValueDim
}

// QKNorm is the RMS norm of queries and keys between projection and RoPE.
type QKNorm uint8

// Kinds of QK norm.
const (
	NoQKNorm QKNorm = iota
	// PerHead normalises each head with one weight of HeadDim elements.
	PerHead
	// WholeProjection normalises a row of all heads as one vector.
	WholeProjection
)

// String returns the kind's name.
func (k QKNorm) String() string {
	switch k {
	case NoQKNorm:
		return "none"
	case PerHead:
		return "per head"
	case WholeProjection:
		return "whole projection"
	}
	return fmt.Sprintf("QKNorm(%d)", uint8(k))
}

// Biases says which of attention's projections have one.
type Biases struct{ Q, K, V, O bool }

// SwiGLU is g'·sigmoid(Alpha·g') · (u' + Offset), where g' is the gate's projection, at
// most Limit, and u' the other one, limited to [-Limit, Limit]. The zero value is
// silu(g)·u: a Limit of 0 means none, an Alpha of 0 means 1.
type SwiGLU struct{ Limit, Alpha, Offset float64 }

// Router chooses TopK of Experts by the softmax of their scores over all
// experts, or as its other fields say.
type Router struct {
	Experts, TopK int
	// Normalize divides the chosen weights by their sum.
	Normalize bool
	// Sigmoid takes the sigmoid of each logit as its score, in place of the softmax.
	Sigmoid bool `json:",omitzero"`
	// Bias says that a bias for each expert is added to the scores for the choice, and
	// not to the weights.
	Bias bool `json:",omitzero"`
	// Groups, where it is not 0, is the number of equal runs of experts of which the
	// TopGroups best may be chosen from: a group's rank is the sum of its GroupBest
	// largest scores.
	Groups, TopGroups, GroupBest int `json:",omitzero"`
	// Scale multiplies the weights; 0 means 1.
	Scale float64 `json:",omitzero"`
}

// Layer is what may differ from layer to layer.
type Layer struct {
	// Window is the number of positions that a query sees, its own included; 0
	// means all.
	Window int
	// Sparse says that the layer has a router and experts; otherwise one dense
	// MLP of DenseIntermediate.
	Sparse bool
	// Attention is the layer's own, where it has other heads than the model's; nil
	// means the model's.
	Attention *Attention `json:",omitzero"`
}

// AttentionOf is layer l's attention.
func (s *Spec) AttentionOf(l int) *Attention {
	if own := s.Layers[l].Attention; own != nil {
		return own
	}
	return &s.Attention
}

// Sparse says of each layer whether it has experts.
func (s *Spec) Sparse() []bool {
	list := make([]bool, len(s.Layers))
	for i, l := range s.Layers {
		list[i] = l.Sparse
	}
	return list
}

// SparseLayers lists the layers with experts.
func (s *Spec) SparseLayers() []int {
	var list []int
	for i, l := range s.Layers {
		if l.Sparse {
			list = append(list, i)
		}
	}
	return list
}

// specVersion changes whenever two versions of this package could compute
// differently from a Spec with the same JSON.
const specVersion = "tandem spec 1\n"

// Hash identifies the configuration: the SHA-256 of the Spec's canonical JSON
// (fields in order of declaration, numbers in their shortest form). Two
// config.json files that mean the same have the same hash, whatever their
// style.
func (s *Spec) Hash() [sha256.Size]byte {
	text, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("model: a Spec is always JSON: %v", err))
	}
	return sha256.Sum256(append([]byte(specVersion), text...))
}
