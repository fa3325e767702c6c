// Package deploy assembles deployments: it opens a model and builds the front end, the
// attention nodes and the expert nodes that serve it, all in one process or one node
// per process. It may not know the API, text, or how a node computes.
package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
	"github.com/tandem-moe/tandem/model/gopher"
	"github.com/tandem-moe/tandem/model/hub"
	"github.com/tandem-moe/tandem/route"
)

// arithmetic names the part of the numerics that no option changes: weights widened
// exactly to f32, sums in f32, an f32 KV cache, attention over spans of kernel.Span
// positions.
var arithmetic = fmt.Sprintf("f32 (kv f32, span %d)", kernel.Span)

// Numerics names all that a result depends on beside the model. Only sums per node
// depend on the layout: the default placement is named by its number of expert nodes,
// another placement by its hash.
func (o *Options) Numerics() string {
	layout := ""
	if o.Wire.Combine == route.Partial {
		layout = fmt.Sprintf(" over %d expert nodes", o.Experts)
		if o.Placement.Nodes > 0 && !o.Placement.IsEven() {
			sum := sha256.Sum256(o.Placement.Append(nil))
			layout += fmt.Sprintf(" placed as %x", sum[:8])
		}
	}
	return fmt.Sprintf("%s, %v%s", arithmetic, o.Wire, layout)
}

// Model is an opened model.
type Model struct {
	// Name is the folder's name, or ORG/NAME for a snapshot in a cache, or the name of
	// the embedded model. Source is the model's name in errors: "model DIR", or "the
	// embedded model".
	Name, Source string
	Spec         *model.Spec
	// Files holds config.json and its companions.
	Files      fs.FS
	Checkpoint *checkpoint.Checkpoint
	// Weights records the digests of all weights loaded so far, by this process or by
	// nodes.
	Weights *checkpoint.Ledger

	sum atomic.Pointer[[sha256.Size]byte] // hash of all weights; nil until all are known
}

// OpenModel opens a Hugging Face folder, or a model of the local cache (see
// [hub.Find]), or the embedded model where dir is empty. The caller closes its
// Checkpoint.
func OpenModel(dir string) (*Model, error) {
	m := &Model{Name: gopher.Name, Source: "the embedded model", Files: gopher.Files(), Weights: checkpoint.NewLedger()}
	open := gopher.Open
	if dir != "" {
		found, err := hub.Find(dir, os.Getenv)
		if err != nil {
			return nil, fmt.Errorf("model: %w", err)
		}
		m.Name, m.Source, m.Files = found.Name, "model "+dir, hub.Files(found.Path)
		open = func() (*checkpoint.Checkpoint, error) { return checkpoint.Open(found.Path) }
	}
	var err error
	if m.Spec, err = model.ReadSpec(m.Files); err != nil {
		return nil, fmt.Errorf("%s: %w", m.Source, err)
	}
	if m.Checkpoint, err = open(); err != nil {
		return nil, fmt.Errorf("%s: %w", m.Source, err)
	}
	return m, nil
}

// Identity is what the nodes of a cluster that serves the model must agree on before
// they load it. Their weights are compared after loading.
func (m *Model) Identity(version string) cluster.Identity {
	spec := m.Spec.Hash()
	return cluster.Identity{
		Version: version, Model: hex.EncodeToString(spec[:16]), Numerics: arithmetic,
		Layers: len(m.Spec.Layers), Experts: m.Spec.Router.Experts, TopK: m.Spec.Router.TopK,
	}
}
