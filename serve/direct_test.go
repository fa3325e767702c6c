package serve_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/oracle"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
	"github.com/tandem-moe/tandem/serve"
)

// tolerance is how far logits and hidden states may be from Hugging Face's,
// which sums in another order.
const tolerance = 1e-4

// direct is the plain version of a model, with a cache of its own.
type direct struct {
	*serve.Direct
	spec  *model.Spec
	dev   kernel.Device
	cache *layer.Cache
	pages []int32
	rows  int
}

// newDirect loads a model's folder to a device.
func newDirect(t testing.TB, dev kernel.Device, dir string, pageTokens int) *direct {
	t.Helper()
	spec, err := model.ReadSpec(os.DirFS(dir))
	require.NoError(t, err)
	ckpt, err := checkpoint.Open(dir)
	require.NoError(t, err)
	defer ckpt.Close()
	const positions = 256
	a, err := layer.LoadAttention(t.Context(), dev, ckpt, spec, positions, nil)
	require.NoError(t, err)
	experts := make([]int, spec.Router.Experts)
	for e := range experts {
		experts[e] = e
	}
	e, err := layer.LoadExperts(t.Context(), dev, ckpt, spec, experts, nil)
	require.NoError(t, err)
	cache, err := layer.NewCache(dev, spec, positions/pageTokens, pageTokens)
	require.NoError(t, err)
	d := &direct{spec: spec, dev: dev, cache: cache, rows: positions}
	d.Direct, err = serve.NewDirect(dev, spec, a, e, cache, positions)
	require.NoError(t, err)
	for p := range rand.New(rand.NewPCG(1, uint64(pageTokens))).Perm(cache.Pages) {
		d.pages = append(d.pages, int32(p))
	}
	t.Cleanup(func() {
		d.Free()
		cache.Free(dev)
	})
	return d
}

// logits feeds ids from position pos on, and returns the logits of all of them.
func (d *direct) logits(t testing.TB, ids []int32, pos int) []float32 {
	t.Helper()
	rows, positions := make([]int32, len(ids)), make([]int32, len(ids))
	for i := range ids {
		rows[i], positions[i] = int32(i), int32(pos+i)
	}
	seqs := []kernel.Sequence{{Rows: len(ids), Pos: pos, Pages: d.pages}}
	require.NoError(t, d.Forward(t.Context(), ids, positions, seqs))
	out, err := d.dev.Alloc(kernel.F32, len(ids)*d.spec.Vocabulary)
	require.NoError(t, err)
	defer d.dev.Free(out)
	lse, err := d.dev.Alloc(kernel.F32, len(ids))
	require.NoError(t, err)
	defer d.dev.Free(lse)
	d.Head(kernel.MatOf(out, len(ids), d.spec.Vocabulary), kernel.MatOf(lse, len(ids), 1), rows)
	require.NoError(t, d.dev.Record().Wait(context.Background()))
	return append([]float32(nil), floats(out.Bytes())...)
}

// floats views bytes as f32.
func floats(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

// near fails where a value is farther from the reference than tolerance.
func near(t testing.TB, want, got []float32, format string, args ...any) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		if d := math.Abs(float64(want[i]) - float64(got[i])); !(d <= tolerance) {
			t.Fatalf("%s: element %d is %v, the reference has %v, %v apart", fmt.Sprintf(format, args...), i, got[i], want[i], d)
		}
	}
}

func cpu(t testing.TB, o kernel.CPUOptions) kernel.Device {
	t.Helper()
	dev, err := kernel.NewCPU(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dev.Close()) })
	return dev
}

var families = []model.Family{model.Mixtral, model.Qwen3MoE, model.OLMoE}

// TestAgreesWithHuggingFace compares logits and hidden states with the
// reference, on the CPU device and on a fake asynchronous one.
func TestAgreesWithHuggingFace(t *testing.T) {
	for _, dir := range oracle.Models(t, families...) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			ref := oracle.Load(t, dir)
			for name, dev := range map[string]kernel.Device{
				"cpu":   cpu(t, kernel.CPUOptions{Threads: 1}),
				"async": kerneltest.NewAsync(cpu(t, kernel.CPUOptions{Threads: 1})),
			} {
				d := newDirect(t, dev, dir, 16)
				for p, prompt := range ref.Prompts {
					if p == oracle.HiddenPrompt {
						d.AfterLayer = compareHidden(t, d, ref)
					}
					near(t, ref.Logits(t, p).Data, d.logits(t, prompt, 0), "%s: logits of prompt %d", name, p)
					d.AfterLayer = nil
				}
			}
		})
	}
}

// compareHidden compares each layer's output; the last one is compared through
// the logits, since the reference has it after the final norm.
func compareHidden(t *testing.T, d *direct, ref *oracle.Reference) func(int, *layer.Rows) {
	return func(l int, r *layer.Rows) {
		if l+1 == len(d.spec.Layers) {
			return
		}
		require.NoError(t, d.dev.Record().Wait(t.Context()))
		want := ref.Hidden(t, l+1)
		near(t, want.Data, floats(r.Residual.Buf.Bytes())[:len(want.Data)], "output of layer %d", l)
	}
}

// TestGreedyAgreesWithHuggingFace continues the reference's prompts token by
// token, prompt in chunks.
func TestGreedyAgreesWithHuggingFace(t *testing.T) {
	for _, dir := range oracle.Models(t, families...) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			ref := oracle.Load(t, dir)
			d := newDirect(t, cpu(t, kernel.CPUOptions{Threads: 1}), dir, 32)
			for _, g := range ref.Greedy {
				require.Equal(t, g.Tokens, d.greedy(t, ref.Prompts[g.Prompt], len(g.Tokens)), "prompt %d", g.Prompt)
			}
		})
	}
}

// greedy continues a prompt by n tokens.
func (d *direct) greedy(t testing.TB, prompt []int32, n int) []int32 {
	t.Helper()
	var output, feed []int32 = nil, prompt
	pos := 0
	for len(output) < n {
		var last []float32
		for len(feed) > 0 {
			chunk := feed[:min(len(feed), 7)]
			feed = feed[len(chunk):]
			last = d.logits(t, chunk, pos)
			pos += len(chunk)
		}
		last = last[len(last)-d.spec.Vocabulary:]
		best := 0
		for i, v := range last {
			if v > last[best] {
				best = i
			}
		}
		output = append(output, int32(best))
		feed = output[len(output)-1:]
	}
	return output
}
