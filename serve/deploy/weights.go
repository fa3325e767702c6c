package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
)

// attentionRole is an attention node's.
var attentionRole = model.Role{Part: model.AttentionPart}

// expertRole is an expert node's that holds experts, listed by layer.
func expertRole(experts [][]int) model.Role {
	return model.Role{Part: model.ExpertPart, Experts: experts}
}

// role is a node's, by its place's experts.
func role(r cluster.Role, experts [][]int) model.Role {
	if r == cluster.Attention {
		return attentionRole
	}
	return expertRole(experts)
}

// record holds the weights that somebody has loaded for a role against what is
// known of the model's.
func (m *Model) record(by string, role model.Role, digests checkpoint.Digests) error {
	names, err := m.Spec.WeightNames(role)
	if err != nil {
		return err
	}
	return m.Weights.Add(by, names, digests)
}

// Fingerprint names what an answer depends on beside the request: the
// configuration, all of the weights, and the numerics. It is empty until all
// weights are known, which they are before anything is answered.
func (m *Model) Fingerprint(numerics string) string {
	weights, known := m.allWeights()
	if !known {
		return ""
	}
	return m.hash(weights, numerics)
}

// allWeights identifies all of the weights, once they are known. From then on they
// stay the same: the sum is kept, as every answer asks for it and a model may have
// tens of thousands of weights.
func (m *Model) allWeights() (sum [sha256.Size]byte, known bool) {
	if kept := m.sum.Load(); kept != nil {
		return *kept, true
	}
	names, err := m.allNames()
	if err != nil {
		return sum, false
	}
	if sum, known = m.Weights.Sum(names); known {
		m.sum.Store(&sum)
	}
	return sum, known
}

// allNames are those of all the model's weights.
func (m *Model) allNames() ([]string, error) {
	names, err := m.Spec.WeightNames(attentionRole)
	if err != nil {
		return nil, err
	}
	experts, err := m.Spec.WeightNames(m.Spec.AllExperts())
	return append(names, experts...), err
}

// hash joins the configuration, weights and the name of a numerics.
func (m *Model) hash(weights [sha256.Size]byte, numerics string) string {
	spec := m.Spec.Hash()
	sum := sha256.Sum256(append(append(spec[:], weights[:]...), numerics...))
	return hex.EncodeToString(sum[:16])
}

// pagesHash identifies the model of an attention node's cached pages: what the
// node itself has loaded. (Its expert nodes hold the same model as the front
// end.)
func (m *Model) pagesHash(w *layer.AttentionWeights) (string, error) {
	names, err := m.Spec.WeightNames(attentionRole)
	if err != nil {
		return "", err
	}
	return m.hash(w.Digests.Sum(names), ""), nil
}

// untied tells that a head of the checkpoint's counts although the configuration
// ties it to the embedding.
func untied(log *slog.Logger, w *layer.AttentionWeights) {
	if w.Untied {
		log.Warn("tie_word_embeddings is true, and lm_head.weight differs from model.embed_tokens.weight: the head is lm_head.weight, as in transformers 5")
	}
}

// check refuses a checkpoint that does not fit the configuration, as far as roles
// need it, and tells in one line of tensors that belong to no part of the model.
func (m *Model) check(log *slog.Logger, roles ...model.Role) error {
	c, err := m.catalogue()
	if err != nil {
		return err
	}
	if err := layer.Check(m.Checkpoint, c, roles...); err != nil {
		return fmt.Errorf("%s: %w", m.Source, err)
	}
	m.tell(log, c)
	return nil
}

// checkForeign is check where other processes load: nothing needs to be there.
func (m *Model) checkForeign(log *slog.Logger, roles ...model.Role) error {
	c, err := m.catalogue()
	if err != nil {
		return err
	}
	if err := c.Foreign(m.Checkpoint.Shapes(), roles...); err != nil {
		return fmt.Errorf("%s: %w", m.Source, err)
	}
	m.tell(log, c)
	return nil
}

func (m *Model) catalogue() (*model.Catalogue, error) {
	c, err := m.Spec.Catalogue(m.Checkpoint.Has)
	if err != nil {
		return nil, fmt.Errorf("%s: %w%s", m.Source, err, absentFiles(m.Checkpoint))
	}
	return c, nil
}

// tell says in one line which tensors nothing reads.
func (m *Model) tell(log *slog.Logger, c *model.Catalogue) {
	if unknown := c.Unknown(m.Checkpoint.Shapes()); len(unknown) > 0 {
		log.Warn("the checkpoint has tensors that belong to no part of the model; nothing reads them", "count", len(unknown), "tensors", model.Some(unknown))
	}
}

// absentFiles says which files are not there, in brackets, or nothing.
func absentFiles(c *checkpoint.Checkpoint) string {
	files := c.Absent()
	if len(files) == 0 {
		return ""
	}
	return fmt.Sprintf(" (not in the folder: %s)", model.Some(files))
}

// loaded says what the node has loaded, for the front end to judge, and that it is
// ready: an expert node with a placement, an attention node with none, which is 0.
func (m *membership) loaded(placement uint64, digests checkpoint.Digests) error {
	raw := make([]uint64, len(digests))
	for i, d := range digests {
		raw[i] = uint64(d)
	}
	if err := m.session.Weights(placement, raw); err != nil {
		return err
	}
	return m.session.Ready(placement)
}
