package layer

import (
	"context"
	"fmt"
	"slices"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
)

// ExpertWeights are experts as they have been loaded, each by its layer and number:
// single ones can be added and given back while others compute. One goroutine owns
// them; what [ExpertWeights.Layer] returns belongs to its caller.
type ExpertWeights struct {
	layers []map[int]*expertWeight // by layer
}

// expertWeight is one expert of one layer.
type expertWeight struct {
	gateUp, down         kernel.Weight
	gateUpBias, downBias kernel.Buffer      // nil where experts have none
	digests              checkpoint.Digests // of the tensors, in the order of Catalogue.Weights
}

// ExpertLayer is experts of one layer in an order of the caller's.
type ExpertLayer struct {
	gateUp, down         []kernel.Weight
	gateUpBias, downBias []kernel.Buffer // nil where experts have none
}

// LoadExperts loads the given experts, listed by layer. A checkpoint that does not fit
// the configuration, as far as they go, is an error that names the tensors.
func LoadExperts(
	ctx context.Context, dev ExpertOps, ckpt *checkpoint.Checkpoint, spec *model.Spec, experts [][]int,
	progress Progress,
) (*ExpertWeights, error) {
	w := &ExpertWeights{layers: make([]map[int]*expertWeight, len(spec.Layers))}
	for l := range w.layers {
		w.layers[l] = map[int]*expertWeight{}
	}
	if err := w.Load(ctx, dev, ckpt, spec, experts, progress); err != nil {
		return nil, err
	}
	return w, nil
}

// Load loads those of the given experts that are not there. Where it fails, none is
// added.
func (w *ExpertWeights) Load(
	ctx context.Context, dev ExpertOps, ckpt *checkpoint.Checkpoint, spec *model.Spec, experts [][]int,
	progress Progress,
) error {
	role := model.Role{Part: model.ExpertPart, Experts: w.missing(experts)}
	count := len(slices.Concat(role.Experts...))
	if count == 0 {
		return nil // nothing needs to be in the files
	}
	if err := CheckExperts(dev.Properties(), spec); err != nil {
		return err
	}
	c, err := spec.Catalogue(ckpt.Has)
	if err != nil {
		return err
	}
	if err := Check(ckpt, c, role); err != nil {
		return err
	}
	l := loader{dev: dev}
	loaded := l.experts(c, role.Experts)
	digests, err := l.load(ctx, ckpt, c, role, progress)
	if err != nil {
		l.free()
		return err
	}
	w.add(role.Experts, loaded, digests)
	return nil
}

// missing are those of the given experts that are not there.
func (w *ExpertWeights) missing(experts [][]int) [][]int {
	missing := make([][]int, len(experts))
	for l, list := range experts {
		for _, e := range list {
			if w.layers[l][e] == nil {
				missing[l] = append(missing[l], e)
			}
		}
	}
	return missing
}

// experts wants experts, listed by layer, and returns where they will be, in order.
func (l *loader) experts(c *model.Catalogue, experts [][]int) (all []*expertWeight) {
	for i, list := range experts {
		for _, e := range list {
			w, t := &expertWeight{}, c.Layers[i].Experts[e]
			l.matrix(&w.gateUp, t.Gate, t.Up)
			l.matrix(&w.down, t.Down)
			l.vector(&w.gateUpBias, t.GateBias, t.UpBias)
			l.vector(&w.downBias, t.DownBias)
			all = append(all, w)
		}
	}
	return all
}

// add takes experts that have been loaded, in the order of the list, with the digests of
// their tensors. Experts have as many tensors as each other.
func (w *ExpertWeights) add(experts [][]int, loaded []*expertWeight, digests checkpoint.Digests) {
	each, next := len(digests)/len(loaded), 0
	for l, list := range experts {
		for _, e := range list {
			loaded[next].digests = digests[next*each : (next+1)*each]
			w.layers[l][e] = loaded[next]
			next++
		}
	}
}

// Keep gives back all but the given experts, which were loaded to dev. Nobody computes
// with the others any more.
func (w *ExpertWeights) Keep(dev kernel.Memory, experts [][]int) {
	for l, held := range w.layers {
		for e, one := range held {
			if l < len(experts) && slices.Contains(experts[l], e) {
				continue
			}
			freeVectors(dev, []*kernel.Buffer{&one.gateUpBias, &one.downBias})
			delete(held, e) // the garbage collector finds matrices
		}
	}
}

// Free gives all experts back, as Keep does.
func (w *ExpertWeights) Free(dev kernel.Memory) { w.Keep(dev, nil) }

// Digests are those of the given experts' weights, in the order of Catalogue.Weights.
func (w *ExpertWeights) Digests(experts [][]int) checkpoint.Digests {
	var all checkpoint.Digests
	for l, list := range experts {
		for _, e := range list {
			all = append(all, w.one(l, e).digests...)
		}
	}
	return all
}

// Layer returns experts of a layer in the given order.
func (w *ExpertWeights) Layer(l int, experts []int) ExpertLayer {
	var of ExpertLayer
	for _, e := range experts {
		one := w.one(l, e)
		of.gateUp, of.down = append(of.gateUp, one.gateUp), append(of.down, one.down)
		if one.downBias != nil {
			of.gateUpBias, of.downBias = append(of.gateUpBias, one.gateUpBias), append(of.downBias, one.downBias)
		}
	}
	return of
}

func (w *ExpertWeights) one(l, expert int) *expertWeight {
	one := w.layers[l][expert]
	if one == nil {
		panic(fmt.Sprintf("layer: expert %d of layer %d is not loaded", expert, l))
	}
	return one
}
