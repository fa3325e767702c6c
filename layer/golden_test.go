package layer

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/golden"
	"github.com/tandem-moe/tandem/internal/oracle"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
)

// TestGoldenBits compares the bits that attention, router, experts and head give
// on the fixtures with those recorded on another machine: on each instruction
// set that this one has.
func TestGoldenBits(t *testing.T) {
	for _, isa := range kernel.Available() {
		var b strings.Builder
		for _, dir := range oracle.Models(t) {
			if filepath.Dir(dir) == oracle.Fixtures() {
				fmt.Fprintf(&b, "%s %x\n", filepath.Base(dir), bitsOf(t, dir, isa))
			}
		}
		t.Log(isa)
		golden.File(t, "golden.txt", b.String())
	}
}

// bitsOf hashes what the parts of a model give for a prompt: each layer's
// residual stream and the router's choices; the same expert for all rows, so
// that it needs no routing; and the logits.
func bitsOf(t *testing.T, dir string, isa kernel.ISA) []byte {
	dev, err := kernel.NewCPU(kernel.CPUOptions{ISA: isa, Threads: 1})
	require.NoError(t, err)
	defer dev.Close()
	spec, err := model.ReadSpec(os.DirFS(dir))
	require.NoError(t, err)
	ckpt, err := checkpoint.Open(dir)
	require.NoError(t, err)
	defer ckpt.Close()
	a, cache := newPart(t, dev, ckpt, spec)
	defer cache.Free(dev)
	second := make([][]int, len(spec.Layers))
	for _, l := range spec.SparseLayers() {
		second[l] = []int{1}
	}
	ew, err := LoadExperts(t.Context(), dev, ckpt, spec, second, nil)
	require.NoError(t, err)
	experts, err := NewExperts(dev, spec)
	require.NoError(t, err)
	defer experts.Free()
	ids, pos := []int32{3, 250, 7, 7, 100, 42, 9}, []int32{0, 1, 2, 3, 4, 5, 6}
	rows, err := a.NewActivations(len(ids))
	require.NoError(t, err)
	defer a.FreeActivations(rows)
	hash := sha256.New()
	a.Embed(rows, ids)
	for l := range spec.Layers {
		a.Forward(l, rows, []kernel.Sequence{{Rows: len(ids), Pages: []int32{0}}}, pos)
		if spec.Layers[l].Sparse {
			hash.Write(rows.TopKIDs.Host().Bytes())
			gate := kernel.Mat{Buf: rows.TopKWeights.Buffer, Rows: len(ids), Cols: 1, Stride: spec.Router.TopK}
			require.NoError(t, experts.Forward(ew.Layer(l, []int{1}), rows.Normed, rows.Normed, gate, []int32{0, int32(len(ids))}))
			dev.Add(rows.Residual, rows.Residual, rows.Normed)
		}
		hash.Write(rows.Residual.Buf.Bytes())
	}
	logits, err := dev.Alloc(kernel.DeviceMemory, kernel.F32, len(ids)*spec.Vocabulary)
	require.NoError(t, err)
	lse, err := dev.Alloc(kernel.DeviceMemory, kernel.F32, len(ids))
	require.NoError(t, err)
	a.Head(kernel.MatOf(logits, len(ids), spec.Vocabulary), kernel.MatOf(lse, len(ids), 1), rows, pos)
	hash.Write(logits.Bytes())
	hash.Write(lse.Bytes())
	return hash.Sum(nil)[:16]
}

// newPart loads the attention part with a cache of one page.
func newPart(t *testing.T, dev kernel.Device, ckpt *checkpoint.Checkpoint, spec *model.Spec) (*Attention, *Cache) {
	w, err := LoadAttention(t.Context(), dev, ckpt, spec, 16, nil)
	require.NoError(t, err)
	cache, err := NewCache(dev, spec, 1, 16)
	require.NoError(t, err)
	a, err := NewAttention(dev, spec, w, cache)
	require.NoError(t, err)
	return a, cache
}

// TestPagesReadBack writes a page and reads it: what travels between nodes.
func TestPagesReadBack(t *testing.T) {
	dev, err := kernel.NewCPU(kernel.CPUOptions{Threads: 1})
	require.NoError(t, err)
	defer dev.Close()
	spec, err := model.ReadSpec(os.DirFS(oracle.Models(t)[0]))
	require.NoError(t, err)
	cache, err := NewCache(dev, spec, 3, 32)
	require.NoError(t, err)
	defer cache.Free(dev)
	require.EqualValues(t, CacheBytes(spec, 32), cache.PageBytes())
	in := make([]byte, cache.PageBytes())
	for i := range in {
		in[i] = byte(i * 7)
	}
	cache.WritePage(dev, 1, in)
	out := make([]byte, cache.PageBytes())
	for page, want := range [][]byte{make([]byte, len(in)), in, make([]byte, len(in))} {
		cache.ReadPage(dev, page, out)
		require.Equal(t, want, out, "page %d", page)
	}
	_, err = NewCache(dev, spec, 1, 24)
	require.ErrorContains(t, err, "1 pages of 24 tokens")
}
