package direct_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/oracle"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/direct"
	"github.com/tandem-moe/tandem/serve/node/nodetest"
)

// tolerance is how far logits and hidden states may be from those of Hugging Face,
// which adds in another order.
const tolerance = 1e-4

// fixture is a model's plain version with its own KV cache.
type fixture struct {
	*direct.Model
	spec  *model.Spec
	dev   kernel.Device
	cache *layer.Cache
	pages []int32
	rows  int
}

// newDirect loads a model from its folder to a device.
func newFixture(t testing.TB, dev kernel.Device, dir string, pageTokens int) *fixture {
	t.Helper()
	spec, err := model.ReadSpec(os.DirFS(dir))
	require.NoError(t, err)
	ckpt, err := checkpoint.Open(dir)
	require.NoError(t, err)
	defer ckpt.Close()
	const positions = 256
	a, err := layer.LoadAttention(t.Context(), dev, ckpt, spec, positions, nil)
	require.NoError(t, err)
	e, err := layer.LoadExperts(t.Context(), dev, ckpt, spec, spec.AllExperts().Experts, nil)
	require.NoError(t, err)
	cache, err := layer.NewCache(dev, spec, positions/pageTokens, pageTokens)
	require.NoError(t, err)
	d := &fixture{spec: spec, dev: dev, cache: cache, rows: positions}
	d.Model, err = direct.New(dev, spec, a, e, cache, positions)
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
func (d *fixture) logits(t testing.TB, ids []int32, pos int) []float32 {
	t.Helper()
	rows, positions := make([]int32, len(ids)), make([]int32, len(ids))
	for i := range ids {
		rows[i], positions[i] = int32(i), int32(pos+i)
	}
	seqs := []kernel.Sequence{{Rows: len(ids), Pos: pos, Pages: d.pages}}
	require.NoError(t, d.Forward(t.Context(), ids, positions, seqs))
	out, err := d.dev.Alloc(kernel.DeviceMemory, kernel.F32, len(ids)*d.spec.Vocabulary)
	require.NoError(t, err)
	defer d.dev.Free(out)
	lse, err := d.dev.Alloc(kernel.DeviceMemory, kernel.F32, len(ids))
	require.NoError(t, err)
	defer d.dev.Free(lse)
	d.Head(kernel.MatOf(out, len(ids), d.spec.Vocabulary), kernel.MatOf(lse, len(ids), 1), rows)
	return d.read(t, out, out.Len())
}

// read returns the first n elements of a buffer. It copies them, since the host may be
// unable to address the buffer.
func (d *fixture) read(t testing.TB, b kernel.Buffer, n int) []float32 {
	t.Helper()
	host := make([]byte, 4*n)
	d.dev.Read(host, b, 0)
	require.NoError(t, d.dev.Record().Wait(context.Background()))
	return floats(host)
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

var families = []model.Family{model.Mixtral, model.Qwen3MoE, model.OLMoE}

// TestAgreesWithHuggingFace compares logits and hidden states with the
// reference, on the CPU device and on fake ones: asynchronous, and with memory that the
// host cannot address.
func TestAgreesWithHuggingFace(t *testing.T) {
	for _, dir := range oracle.Models(t, families...) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			ref := oracle.Load(t, dir)
			for name, dev := range map[string]kernel.Device{
				"cpu":      nodetest.CPU(t, kernel.CPUOptions{Threads: 1}),
				"async":    kerneltest.NewAsync(nodetest.CPU(t, kernel.CPUOptions{Threads: 1})),
				"discrete": kerneltest.NewDiscrete(nodetest.CPU(t, kernel.CPUOptions{Threads: 1})),
			} {
				d := newFixture(t, dev, dir, 16)
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

// compareHidden compares each layer's output with the reference, except for the last
// layer's, which the reference has after the final norm: the logits cover it.
func compareHidden(t *testing.T, d *fixture, ref *oracle.Reference) func(int, *layer.Activations) {
	return func(l int, r *layer.Activations) {
		if l+1 == len(d.spec.Layers) {
			return
		}
		want := ref.Hidden(t, l+1)
		near(t, want.Data, d.read(t, r.Residual.Buf, len(want.Data)), "output of layer %d", l)
	}
}

// TestGreedyAgreesWithHuggingFace continues the reference's prompts, which it feeds in
// chunks, token by token.
func TestGreedyAgreesWithHuggingFace(t *testing.T) {
	for _, dir := range oracle.Models(t, families...) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			ref := oracle.Load(t, dir)
			d := newFixture(t, nodetest.CPU(t, kernel.CPUOptions{Threads: 1}), dir, 32)
			for _, g := range ref.Greedy {
				require.Equal(t, g.Tokens, d.greedy(t, ref.Prompts[g.Prompt], len(g.Tokens)), "prompt %d", g.Prompt)
			}
		})
	}
}

// greedy continues a prompt by n tokens.
func (d *fixture) greedy(t testing.TB, prompt []int32, n int) []int32 {
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

// TestPartialSumsAgreeWithHuggingFace: adding per node first rounds differently, but
// the error is no larger than with any other order of addition.
func TestPartialSumsAgreeWithHuggingFace(t *testing.T) {
	differ := 0
	for _, dir := range oracle.Models(t, families...) {
		ref := oracle.Load(t, dir)
		d := newFixture(t, nodetest.CPU(t, kernel.CPUOptions{Threads: 1}), dir, 16)
		for p, prompt := range ref.Prompts {
			d.Wire = route.Wire{}
			exact := d.logits(t, prompt, 0)
			d.Wire = route.Wire{Combine: route.Partial}
			for _, nodes := range []int{1, 2, 3} {
				d.over(nodes)
				partial := d.logits(t, prompt, 0)
				near(t, ref.Logits(t, p).Data, partial, "%s, %d expert nodes: logits of prompt %d", filepath.Base(dir), nodes, p)
				if !slices.Equal(exact, partial) {
					differ++
				}
			}
		}
	}
	require.Positive(t, differ, "prompts with other bits than exact sums")
}

// TestWiresOnAnAsynchronousDevice: each wire format gives the same bits on an
// asynchronous device, whose memory the host cannot address, as on the CPU device.
func TestWiresOnAnAsynchronousDevice(t *testing.T) {
	dir := oracle.Models(t, families...)[0]
	prompt := oracle.Load(t, dir).Prompts[0]
	plain := newFixture(t, nodetest.CPU(t, kernel.CPUOptions{Threads: 1}), dir, 16)
	async := newFixture(t, kerneltest.NewDiscrete(nodetest.CPU(t, kernel.CPUOptions{Threads: 1})), dir, 16)
	for _, rows := range []kernel.RowFormat{kernel.RowF32, kernel.RowBF16, kernel.RowInt8} {
		for _, combine := range []route.Combine{route.ByExpert, route.Partial} {
			w := route.Wire{Rows: rows, Combine: combine}
			for _, d := range []*fixture{plain, async} {
				d.Wire = w
				d.over(2)
			}
			require.Equal(t, plain.logits(t, prompt, 0), async.logits(t, prompt, 0), "%v", w)
		}
	}
}

// narrowWires are the wire formats that round, with the error of one rounding of a
// row, as a share of the row's root mean square.
//
// A bfloat16 has 8 significant bits: an element's error is up to 2⁻⁹ of it; errors
// spread evenly in that range have the root mean square 2⁻⁹/√3. An int8 row is
// rounded to steps of 1/127 of its largest element, which is about three times the
// root mean square in these rows; the error of a step has the root mean square 1/√12.
var narrowWires = []struct {
	rows   kernel.RowFormat
	error  float64
	greedy float64 // least share of greedy tokens that agree; after the first that differs, others may too
}{
	{kernel.RowBF16, 1.0 / 512 / math.Sqrt(3), 0.95},
	{kernel.RowInt8, 3.0 / 127 / math.Sqrt(12), 0.9},
}

// wireTolerance bounds a logit row's error, as a share of its root mean square. Each
// sparse layer rounds twice, to the experts and back. The layers' errors are
// independent, so they add up as the root of the sum of their squares. An expert
// multiplies two functions of its input, which about doubles the error.
func wireTolerance(spec *model.Spec, rounding float64) float64 {
	return 2 * rounding * math.Sqrt(float64(2*len(spec.SparseLayers())))
}

// TestNarrowWiresStayNear compares the logits of rounded rows with Hugging Face's. In
// a row whose router nearly ties, rounding may choose another expert, and then no
// tolerance bounds the row's error: the test looks at the median row.
func TestNarrowWiresStayNear(t *testing.T) {
	for _, wire := range narrowWires {
		for _, combine := range []route.Combine{route.ByExpert, route.Partial} {
			w := route.Wire{Rows: wire.rows, Combine: combine}
			t.Run(w.String(), func(t *testing.T) {
				agree, tokens := 0, 0
				for _, dir := range oracle.Models(t, families...) {
					ref := oracle.Load(t, dir)
					d := newFixture(t, nodetest.CPU(t, kernel.CPUOptions{Threads: 1}), dir, 16)
					d.Wire = w
					d.over(3)
					got, tolerance := d.medianError(t, ref), wireTolerance(d.spec, wire.error)
					t.Logf("%s: median error %.5f of the logits, tolerance %.5f", filepath.Base(dir), got, tolerance)
					require.LessOrEqual(t, got, tolerance, dir)
					require.Greater(t, got, tolerance/50, "%s: rows are not rounded", dir)
					a, n := d.agreement(t, ref)
					agree, tokens = agree+a, tokens+n
				}
				t.Logf("%d of %d greedy tokens are Hugging Face's", agree, tokens)
				require.GreaterOrEqual(t, float64(agree), wire.greedy*float64(tokens))
			})
		}
	}
}

// over spreads the experts evenly over so many nodes.
func (d *fixture) over(nodes int) {
	d.Placement = route.Even(d.spec.Sparse(), d.spec.Router.Experts, nodes)
}

// medianError is the median of all rows' errors: a row's error is that of its logits,
// as a share of their root mean square.
func (d *fixture) medianError(t testing.TB, ref *oracle.Reference) float64 {
	var errors []float64
	for p, prompt := range ref.Prompts {
		got, want := d.logits(t, prompt, 0), ref.Logits(t, p).Data
		for r := range prompt {
			var wrong, all float64
			for i := r * d.spec.Vocabulary; i < (r+1)*d.spec.Vocabulary; i++ {
				w, e := float64(want[i]), float64(want[i])-float64(got[i])
				wrong, all = wrong+e*e, all+w*w
			}
			errors = append(errors, math.Sqrt(wrong/all))
		}
	}
	slices.Sort(errors)
	return errors[len(errors)/2]
}

// agreement returns how many greedy tokens equal the reference's, and of how many.
func (d *fixture) agreement(t testing.TB, ref *oracle.Reference) (same, tokens int) {
	for _, g := range ref.Greedy {
		for i, token := range d.greedy(t, ref.Prompts[g.Prompt], len(g.Tokens)) {
			tokens++
			if token == g.Tokens[i] {
				same++
			}
		}
	}
	return same, tokens
}
