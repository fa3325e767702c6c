package deploy

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
	"github.com/tandem-moe/tandem/route"
)

// frontName is the front end's name in errors about weights that differ.
const frontName = "the front end"

// judge compares the weights of a cluster's nodes with each other and with the front
// end's own files. The front end loads no weights: it reads its files while the nodes
// load theirs. For a weight that its files lack, the first node that has loaded the
// weight sets the digest.
type judge struct {
	model *Model
	log   *slog.Logger
	// read is closed once the front end has read those of the model's files that it
	// has.
	read chan struct{}
}

func newJudge(m *Model, log *slog.Logger) *judge {
	return &judge{model: m, log: log, read: make(chan struct{})}
}

// role returns which weights a member holds: an expert node's by a placement, which is
// ignored for an attention node.
func (j *judge) role(m cluster.Member, p cluster.Placement) (model.Role, error) {
	if m.Role == cluster.Attention {
		return attentionRole, nil
	}
	placement, err := route.ParsePlacement(p.Version, p.Experts)
	if err != nil {
		return model.Role{}, err
	}
	return expertRole(placement.Experts(m.Place)), nil
}

// Weights implements cluster.Judge.
func (j *judge) Weights(m cluster.Member, p cluster.Placement) int {
	role, err := j.role(m, p)
	if err != nil {
		return 0
	}
	names, err := j.model.Spec.WeightNames(role)
	if err != nil {
		return 0
	}
	return len(names)
}

// Compare implements cluster.Judge.
func (j *judge) Compare(ctx context.Context, m cluster.Member, p cluster.Placement, digests []uint64) error {
	role, err := j.role(m, p)
	if err != nil {
		return err
	}
	select {
	case <-j.read:
	case <-ctx.Done():
		return ctx.Err()
	}
	list := make(checkpoint.Digests, len(digests))
	for i, d := range digests {
		list[i] = checkpoint.Digest(d)
	}
	err = j.model.record(m.ID, role, list)
	if err != nil {
		j.log.Warn("a node is refused: its weights are not the cluster's", "node", m.ID, "address", m.Addr, "reason", err)
	}
	return err
}

// readOwn reads those of the model's files that the front end has. It uses half of the
// processors, since nodes may run on this host too.
func (j *judge) readOwn(ctx context.Context) error {
	began, bytes, missing := time.Now(), int64(0), 0
	for _, r := range []model.Role{attentionRole, j.model.Spec.AllExperts()} {
		names, refs, absent, err := j.own(r)
		if err != nil {
			return err
		}
		digests, err := j.model.Checkpoint.Digests(ctx, refs, max(1, runtime.GOMAXPROCS(0)/2))
		if err != nil {
			return fmt.Errorf("reading the front end's weights: %w", err)
		}
		if err := j.model.Weights.Add(frontName, names, digests); err != nil {
			return err
		}
		bytes += j.model.Checkpoint.BytesOf(refs)
		missing += absent
	}
	close(j.read)
	j.log.Info("read the front end's own weights, with which the nodes' are compared", "bytes", bytes, "missing tensors", missing, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// own lists the weights of a role that are in the front end's files, and counts those
// that are absent.
func (j *judge) own(r model.Role) (names []string, refs []model.Ref, absent int, err error) {
	c, err := layer.Tie(j.model.Checkpoint, j.model.Spec)
	if err != nil {
		return nil, nil, 0, err
	}
	all, err := c.Weights(r)
	if err != nil {
		return nil, nil, 0, err
	}
	allNames, err := j.model.Spec.WeightNames(r)
	if err != nil {
		return nil, nil, 0, err
	}
	for i, ref := range all {
		if j.model.Checkpoint.Has(ref.Name) {
			names, refs = append(names, allNames[i]), append(refs, ref)
		}
	}
	return names, refs, len(all) - len(refs), nil
}
