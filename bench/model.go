package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"

	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
)

// markerFile says what a folder of random weights holds, so that it can be used
// again.
const markerFile = "bench.json"

// marker is what decides a model's bytes.
type marker struct {
	// Generator changes whenever the same seed gives other weights.
	Generator int
	Shape     Shape
	DType     checkpoint.DType
	Seed      uint64
}

const generator = 1

// shardBytes bounds a shard, and so the memory that making a model takes: the
// largest matrix where that is larger.
const shardBytes = 128 << 20

// WriteModel makes a model of random weights in Hugging Face form (bf16 or f32),
// or finds that dir has it already. A folder that holds something else is left
// alone and is an error. The weights' scales keep activations of order 1, so
// that logits are finite and rows are spread over all experts.
func WriteModel(dir string, s Shape, dtype checkpoint.DType, seed uint64) error {
	want := marker{Generator: generator, Shape: s, DType: dtype, Seed: seed}
	if dtype != checkpoint.BF16 && dtype != checkpoint.F32 {
		return fmt.Errorf("random model: weights of type %s: want %s or %s", dtype, checkpoint.BF16, checkpoint.F32)
	}
	switch has, err := readMarker(dir); {
	case err == nil && has == want:
		return nil
	case err == nil:
		return fmt.Errorf("random model: %s holds %+v, want %+v", dir, has, want)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("random model: %w", err)
	}
	if err := writeModel(dir, want); err != nil {
		return fmt.Errorf("random model: %w", err)
	}
	return nil
}

func readMarker(dir string) (marker, error) {
	var m marker
	path := filepath.Join(dir, markerFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// writeModel writes beside dir, which must not be there or be empty, and renames
// once all is complete.
func writeModel(dir string, m marker) (err error) {
	if files, err := os.ReadDir(dir); err == nil && len(files) > 0 {
		return fmt.Errorf("%s holds something else: %s", dir, files[0].Name())
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	part, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".*.part")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(part)) }()
	if err := os.Chmod(part, 0o755); err != nil {
		return err
	}
	if err := m.writeFiles(part); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(part, dir)
}

// writeFiles writes configuration, weights and marker.
func (m marker) writeFiles(dir string) error {
	spec := m.Shape.Spec()
	spec.DType = map[checkpoint.DType]string{checkpoint.BF16: "bfloat16", checkpoint.F32: "float32"}[m.DType]
	config, err := spec.Config()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	catalogue, err := spec.Catalogue(func(string) bool { return true })
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, model.ConfigFile), config, 0o644),
		m.writeWeights(dir, randomTensors(catalogue, len(spec.Layers))),
		os.WriteFile(filepath.Join(dir, markerFile), append(text, '\n'), 0o644),
	)
}

// randomTensor is a tensor to be made. A deviation of 0 stands for ones.
type randomTensor struct {
	model.Ref
	deviation float64
}

// randomTensors lists a model's tensors with the deviations of their elements.
// Products of a normalised row with 1/√in keep its scale; what is added to the
// residual stream shrinks with the number of additions.
func randomTensors(c *model.Catalogue, layers int) []randomTensor {
	residual := 1 / math.Sqrt(2*float64(layers))
	matrix := func(r model.Ref, scale float64) randomTensor {
		return randomTensor{r, scale / math.Sqrt(float64(r.Shape[1]))}
	}
	list := []randomTensor{{c.Embedding, 1}}
	for i := range c.Layers {
		l := &c.Layers[i]
		list = append(list, randomTensor{l.InputNorm, 0}, randomTensor{l.PostNorm, 0}, randomTensor{l.QNorm, 0}, randomTensor{l.KNorm, 0},
			matrix(l.Q, 1), matrix(l.K, 1), matrix(l.V, 1), matrix(l.O, residual), matrix(l.Router, 1))
		for _, e := range l.Experts {
			// A SwiGLU of unit inputs has a deviation of about ½.
			list = append(list, matrix(e.Gate, 1), matrix(e.Up, 1), matrix(e.Down, 2*residual))
		}
	}
	return append(list, randomTensor{c.FinalNorm, 0}, matrix(c.Head, 1))
}

// writeWeights makes and writes one shard after the other, in one piece of
// memory, and the index.
func (m marker) writeWeights(dir string, tensors []randomTensor) error {
	var memory []byte
	var total int64
	weights := map[string]string{}
	shards := m.shards(tensors)
	for i, shard := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		var named []checkpoint.Named
		memory, named = m.make(memory, shard)
		for _, t := range named {
			weights[t.Name] = name
			total += int64(len(t.Data))
		}
		if err := writeShard(filepath.Join(dir, name), named); err != nil {
			return err
		}
	}
	index, err := json.MarshalIndent(map[string]any{
		"metadata": map[string]any{"total_size": total}, "weight_map": weights,
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, checkpoint.IndexFile), append(index, '\n'), 0o644)
}

// shards cuts the list into pieces of at most shardBytes.
func (m marker) shards(tensors []randomTensor) [][]randomTensor {
	var shards [][]randomTensor
	var size int64
	for i, t := range tensors {
		n := t.Elements() * m.DType.Size()
		if size += n; i == 0 || size > shardBytes {
			shards, size = append(shards, nil), n
		}
		last := len(shards) - 1
		shards[last] = append(shards[last], t)
	}
	return shards
}

// make fills a shard's tensors, each on a goroutine, in memory that grows where
// it is too small.
func (m marker) make(memory []byte, shard []randomTensor) ([]byte, []checkpoint.Named) {
	var size int64
	for _, t := range shard {
		size += t.Elements() * m.DType.Size()
	}
	if int64(len(memory)) < size {
		memory = make([]byte, size)
	}
	var named []checkpoint.Named
	var filling sync.WaitGroup
	rest := memory
	for _, t := range shard {
		n := t.Elements() * m.DType.Size()
		data := rest[:n:n]
		rest = rest[n:]
		named = append(named, checkpoint.Named{Name: t.Name, Tensor: checkpoint.Tensor{DType: m.DType, Shape: t.Whole, Data: data}})
		filling.Go(func() {
			if t.deviation == 0 {
				ones(data, m.DType)
				return
			}
			normal(data, m.DType, m.Seed, t.Name, t.deviation)
		})
	}
	filling.Wait()
	return memory, named
}

func writeShard(path string, tensors []checkpoint.Named) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return checkpoint.Write(f, map[string]string{"format": "pt"}, tensors)
}
