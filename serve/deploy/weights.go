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

// attentionRole is which weights an attention node loads.
var attentionRole = model.Role{Part: model.AttentionPart}

// expertRole is which weights an expert node loads that holds the given experts, listed
// by layer.
func expertRole(experts [][]int) model.Role {
	return model.Role{Part: model.ExpertPart, Experts: experts}
}

// role is which weights a node loads; experts are those of its place, by layer.
func role(r cluster.Role, experts [][]int) model.Role {
	if r == cluster.Attention {
		return attentionRole
	}
	return expertRole(experts)
}

// record adds the digests of a role's weights to the model's ledger, and refuses those
// that differ from the digests there. by names the process or node that has loaded
// them.
func (m *Model) record(by string, role model.Role, digests checkpoint.Digests) error {
	names, err := m.Spec.WeightNames(role)
	if err != nil {
		return err
	}
	return m.Weights.Add(by, names, digests)
}

// Fingerprint names what an answer depends on beside the request: the configuration,
// all weights, and the numerics. It is empty until all weights are known; no request
// is answered before.
func (m *Model) Fingerprint(numerics string) string {
	weights, known := m.allWeights()
	if !known {
		return ""
	}
	return m.hash(weights, numerics)
}

// allWeights returns a hash of all weights, once all are known. It keeps the hash,
// which cannot change from then on: every answer asks for it, and a model may have
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

// allNames returns the names of all the model's weights.
func (m *Model) allNames() ([]string, error) {
	names, err := m.Spec.WeightNames(attentionRole)
	if err != nil {
		return nil, err
	}
	experts, err := m.Spec.WeightNames(m.Spec.AllExperts())
	return append(names, experts...), err
}

// hash hashes the configuration, the weights and the name of the numerics.
func (m *Model) hash(weights [sha256.Size]byte, numerics string) string {
	spec := m.Spec.Hash()
	sum := sha256.Sum256(append(append(spec[:], weights[:]...), numerics...))
	return hex.EncodeToString(sum[:16])
}

// pagesHash identifies the model of an attention node's cached pages: the
// configuration, and the weights that the node itself has loaded. (The front end
// compares the expert nodes' weights.)
func (m *Model) pagesHash(w *layer.AttentionWeights) (string, error) {
	names, err := m.Spec.WeightNames(attentionRole)
	if err != nil {
		return "", err
	}
	return m.hash(w.Digests.Sum(names), ""), nil
}

// untied warns where the checkpoint's own head is used although the configuration ties
// the head to the embedding.
func untied(log *slog.Logger, w *layer.AttentionWeights) {
	if w.Untied {
		log.Warn("tie_word_embeddings is true, and lm_head.weight differs from model.embed_tokens.weight: the head is lm_head.weight, as in transformers 5")
	}
}

// check refuses a checkpoint whose weights of the roles do not fit the configuration,
// and logs the tensors that belong to no part of the model.
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

// checkForeign refuses tensors that would change what the roles compute and that the
// configuration does not mention, and logs as check does. Weights may be absent.
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

// tell logs, in one line, the tensors that belong to no part of the model.
func (m *Model) tell(log *slog.Logger, c *model.Catalogue) {
	if unknown := c.Unknown(m.Checkpoint.Shapes()); len(unknown) > 0 {
		log.Warn("the checkpoint has tensors that belong to no part of the model; nothing reads them", "count", len(unknown), "tensors", model.Some(unknown))
	}
}

// absentFiles names the checkpoint's files that are absent, in brackets; "" where none
// is.
func absentFiles(c *checkpoint.Checkpoint) string {
	files := c.Absent()
	if len(files) == 0 {
		return ""
	}
	return fmt.Sprintf(" (not in the folder: %s)", model.Some(files))
}

// loaded sends the digests of the node's weights, for the front end to compare, and says
// that the node is ready. placement is the version that an expert node's weights are
// for; an attention node's is 0.
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
