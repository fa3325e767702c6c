package oracle

import (
	"encoding/binary"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tandem-moe/tandem/model/checkpoint"
)

// Reference is what Hugging Face computes for a model, in f32.
type Reference struct {
	Description string    `json:"description"`
	Prompts     [][]int32 `json:"prompts"`
	Greedy      []Greedy  `json:"greedy"`
	// MinRouterGap is the smallest distance between a chosen expert's score and
	// the best one that was not.
	MinRouterGap float64 `json:"min_router_gap"`

	tensors *checkpoint.Checkpoint
}

// Greedy is the greedy continuation of a prompt.
type Greedy struct {
	Prompt int     `json:"prompt"`
	Tokens []int32 `json:"tokens"`
	// MinMargin is the smallest gap between the best and the second logit.
	MinMargin float64 `json:"min_margin"`
}

// Matrix is Rows rows of Cols values.
type Matrix struct {
	Rows, Cols int
	Data       []float32
}

// Row returns row r.
func (m Matrix) Row(r int) []float32 { return m.Data[r*m.Cols : (r+1)*m.Cols] }

// HiddenPrompt is the prompt whose hidden states and router outputs are stored.
const HiddenPrompt = 2

// Load reads the reference of a model's folder; it is closed with the test.
func Load(t testing.TB, dir string) *Reference {
	t.Helper()
	r := &Reference{}
	readJSON(t, filepath.Join(dir, "reference.json"), r)
	c, err := checkpoint.OpenFile(filepath.Join(dir, "reference.safetensors"))
	if err != nil {
		t.Fatalf("reference: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	r.tensors = c
	return r
}

// Logits returns those of a prompt: [tokens, vocabulary].
func (r *Reference) Logits(t testing.TB, prompt int) Matrix {
	t.Helper()
	return r.matrix(t, fmt.Sprintf("logits.%d", prompt))
}

// Hidden returns [tokens, hidden] of HiddenPrompt: layer 0 is the embedding,
// layer l below the number of layers the output of layer l, and the last one
// the final norm's output.
func (r *Reference) Hidden(t testing.TB, layer int) Matrix {
	t.Helper()
	return r.matrix(t, fmt.Sprintf("hidden.%d.%d", HiddenPrompt, layer))
}

// Router returns [tokens, experts] of HiddenPrompt: the scores of the router in
// layer l (counted from 0), before softmax; false where the layer is dense.
func (r *Reference) Router(t testing.TB, layer int) (Matrix, bool) {
	t.Helper()
	prefix := fmt.Sprintf("router.%d.model.layers.%d.", HiddenPrompt, layer)
	for _, name := range r.tensors.Names() {
		if strings.HasPrefix(name, prefix) {
			return r.matrix(t, name), true
		}
	}
	return Matrix{}, false
}

func (r *Reference) matrix(t testing.TB, name string) Matrix {
	t.Helper()
	x, err := r.tensors.Tensor(name)
	if err != nil || x.DType != checkpoint.F32 || len(x.Shape) != 2 {
		t.Fatalf("reference tensor %q: %s %v, %v", name, x.DType, x.Shape, err)
	}
	m := Matrix{Rows: x.Shape[0], Cols: x.Shape[1], Data: make([]float32, len(x.Data)/4)}
	for i := range m.Data {
		m.Data[i] = math.Float32frombits(binary.LittleEndian.Uint32(x.Data[4*i:]))
	}
	return m
}

// Completion is one of the embedded model's reference prompts.
type Completion struct {
	Prompt    string  `json:"prompt"`
	IDs       []int32 `json:"ids"`
	Greedy    []int32 `json:"greedy"`
	Text      string  `json:"text"`
	MinMargin float64 `json:"min_margin"`
}

// Gopher reads the embedded model's reference completions.
func Gopher(t testing.TB) []Completion {
	t.Helper()
	var list []Completion
	readJSON(t, filepath.Join(Root(), "model", "gopher", "reference.json"), &list)
	return list
}
