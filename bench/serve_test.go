package bench

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/model/checkpoint"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// tiny is a model of the tiny shape.
func tiny(t *testing.T) *deploy.Model {
	m, _ := tinyIn(t)
	return m
}

// tinyIn is a model of the tiny shape, and its folder.
func tinyIn(t *testing.T) (*deploy.Model, string) {
	t.Helper()
	shape, err := ShapeOf("tiny")
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "tiny")
	require.NoError(t, WriteModel(dir, shape, checkpoint.BF16, 1))
	m, err := deploy.OpenModel(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Checkpoint.Close()) })
	return m, dir
}

// TestServeFillsEveryRow measures a small layout. That engine and direct calls
// gave the same tokens, Serve has checked.
func TestServeFillsEveryRow(t *testing.T) {
	told := 0
	o := ServeOptions{
		Model: tiny(t), Experts: 2, Prompt: 20, Output: 12, Sequences: []int{1, 3}, Repeats: 3, Threads: 2,
		Aggregation: []int{2}, Progress: func(ServeProgress) { told++ },
	}
	report, err := Serve(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, 6, told)
	require.Len(t, report.Rows, 4)
	for i, row := range report.Rows {
		require.Equal(t, []int{1, 1, 3, 3}[i], row.Sequences)
		require.Equal(t, []string{"prompt", "decode"}[i%2], row.Phase)
		require.Len(t, row.Ratios, 3)
		for name, v := range map[string]float64{
			"rate": row.TokensPerSecond, "direct": row.Direct, "ratio": row.Ratio,
			"T_a": row.AttentionSeconds, "T_e": row.ExpertSeconds, "T_c": row.TransferSeconds, "rows/expert": row.RowsPerExpert,
		} {
			require.Positive(t, v, "%s of row %d", name, i)
		}
		require.InDelta(t, 0.5, row.AttentionBubble, 0.5)
		require.InDelta(t, 0.5, row.ExpertBubble, 0.5)
		require.Equal(t, 1.0, row.Aggregation, "one attention node's rows meet nobody")
		require.Equal(t, 12.0, row.Steps, "the prompts fit in one step, which gives a token")
		require.Equal(t, row.DirectSteps, row.Steps)
	}
	require.Len(t, report.Aggregation, 1)
	require.Equal(t, 16, report.Aggregation[0].Sequences)
	require.InDelta(t, 1.5, report.Aggregation[0].Aggregation, 0.5)
	require.Positive(t, report.Aggregation[0].LeastRows)
}

// TestServeMeasuresProcesses has the same nodes in processes of their own, joined
// by shared memory and by TCP, beside one process. That all gave the same tokens,
// and that rows went by the transport, Serve has checked. An expert node's figures are
// not looked at: it is asked for them a little late, and these runs are over by then.
func TestServeMeasuresProcesses(t *testing.T) {
	m, folder := tinyIn(t)
	var told []int
	report, err := Serve(t.Context(), ServeOptions{
		Progress: func(p ServeProgress) { told = append(told, p.Repeat, p.Repeats) },
		Model:    m, Folder: folder, Experts: 2, Prompt: 20, Output: 12, Sequences: []int{3}, Repeats: 2, Threads: 1,
		Processes: []string{"shm", "tcp"}, Node: []string{os.Args[0], nodeArgument},
	})
	require.NoError(t, err)
	require.Equal(t, []int{1, 4, 2, 4, 3, 4, 4, 4}, told)
	require.Len(t, report.Rows, 6)
	for i, row := range report.Rows {
		require.Equal(t, []string{"one process", "processes", "processes"}[i/2], row.Nodes)
		require.Equal(t, []string{"inproc", "shm", "tcp"}[i/2], row.Transport)
		require.Equal(t, []string{"prompt", "decode"}[i%2], row.Phase)
		require.Equal(t, report.Rows[i%2].TokensPerSecond, row.OneProcess)
		require.Len(t, row.OneProcessRatios, 4, "two turns after each of two starts")
		require.Equal(t, 12.0, row.Steps)
		for name, v := range map[string]float64{
			"rate": row.TokensPerSecond, "ratio": row.OneProcessRatio, "T_a": row.AttentionSeconds, "T_c": row.TransferSeconds,
			"CPU": row.CPUSeconds,
		} {
			require.Positive(t, v, "%s of row %d", name, i)
		}
	}
}

// TestServeMovesWideRowsByTCP has processes joined by TCP exchange messages of as many
// bytes as the small shape's: 128 KB to the experts and 512 KB back in each layer, of
// 32 sequences. Two ends that each wait for the other to go on do not pass it.
func TestServeMovesWideRowsByTCP(t *testing.T) {
	if testing.Short() {
		t.Skip("a model of 60 MB, loaded by several processes")
	}
	shape, err := ShapeOf("small")
	require.NoError(t, err)
	shape.Layers, shape.Experts, shape.ExpertIntermediate, shape.Vocabulary = 6, 8, 64, 512
	dir := filepath.Join(t.TempDir(), "wide")
	require.NoError(t, WriteModel(dir, shape, checkpoint.BF16, 1))
	m, err := deploy.OpenModel(dir)
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	report, err := Serve(t.Context(), ServeOptions{
		Model: m, Folder: dir, Prompt: 16, Output: 24, Sequences: []int{32}, Repeats: 1, Starts: 1, Threads: 2,
		Processes: []string{"tcp"}, Node: []string{os.Args[0], nodeArgument},
	})
	require.NoError(t, err)
	require.Len(t, report.Rows, 4)
	for _, row := range report.Rows[2:] {
		require.Equal(t, "tcp", row.Transport)
		require.Equal(t, 24.0, row.Steps)
	}
}

// TestServeTellsWhyAProcessEnded: a node that cannot be started, and one that ends
// at once.
func TestServeTellsWhyAProcessEnded(t *testing.T) {
	for command, says := range map[string]string{"/nowhere": "no such file", "false": "node, process"} {
		_, err := Serve(t.Context(), ServeOptions{Model: tiny(t), Processes: []string{"shm"}, Node: []string{command}})
		require.ErrorContains(t, err, says)
	}
}

// TestServeWritesObjects checks the names that scripts depend on.
func TestServeWritesObjects(t *testing.T) {
	report, err := Serve(t.Context(), ServeOptions{Model: tiny(t), Prompt: 8, Output: 6, Sequences: []int{2}, Repeats: 1, Aggregation: []int{1}})
	require.NoError(t, err)
	var text, drawn bytes.Buffer
	require.NoError(t, report.WriteJSON(&text))
	lines := bytes.Split(bytes.TrimSpace(text.Bytes()), []byte("\n"))
	require.Len(t, lines, 3)
	var row map[string]any
	require.NoError(t, json.Unmarshal(lines[1], &row))
	for _, name := range []string{
		"kind", "model", "dtype", "attention_nodes", "expert_nodes", "micro_batches", "transport", "wire", "combine", "threads", "prompt_tokens", "output_tokens", "repeats", "starts", "machine",
		"nodes", "sequences", "phase", "tokens_per_s", "one_process_tokens_per_s", "one_process_ratio", "one_process_ratios", "step_p10_s", "one_process_step_p10_ratio", "direct_tokens_per_s", "ratio", "ratios", "attention_s", "expert_s", "transfer_s",
		"attention_bubble", "expert_bubble", "aggregation", "rows_per_expert", "cpu_s_per_token", "steps", "direct_steps",
	} {
		require.Contains(t, row, name)
		delete(row, name)
	}
	require.Empty(t, row)
	report.WriteTable(&drawn)
	require.Contains(t, drawn.String(), "T_a")
	require.Contains(t, drawn.String(), "decode")
}

// TestTableFitsATerminal: no line has more than 100 columns, whatever the figures.
func TestTableFitsATerminal(t *testing.T) {
	row := ServeRow{
		Nodes: "processes", Sequences: 1024, Phase: "prompt", TokensPerSecond: 123456, OneProcessRatio: 12.345, QuickStepRatio: 12.345,
		Direct: 123456, Ratio: 12.345, CPUSeconds: 123.45e-3, AttentionSeconds: 123.45e-6, ExpertSeconds: 123.45e-3, TransferSeconds: 123.45e-6,
		AttentionBubble: 1, ExpertBubble: 1, Aggregation: 31.25, RowsPerExpert: 1234,
	}
	row.Transport = "shm"
	r := &ServeReport{Rows: []ServeRow{row}, Aggregation: []AggregationRow{{Aggregation: 1}}}
	r.Machine = Machine{CPU: "AMD EPYC 9R14", ISA: "avx512", Cores: 192, OS: "linux", Arch: "amd64", Go: "go1.26.0"}
	r.options = &ServeOptions{Model: tiny(t)}
	r.options.Attention, r.options.Experts, r.options.MicroBatches, r.options.Starts, r.options.Repeats = 16, 16, 16, 10, 10
	r.options.Prompt, r.options.Output = 100000, 100000
	var drawn bytes.Buffer
	r.WriteTable(&drawn)
	for _, name := range []string{"processes, shm", "÷ one", "P10", "T_a", "100 / 100 %", "rows/", "share"} {
		require.Contains(t, drawn.String(), name)
	}
	for line := range strings.Lines(drawn.String()) {
		require.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), 100, line)
	}
}

// TestEngineAndDirectGiveTheTokensAsked runs several layouts, prompts in chunks:
// exactly as many tokens as asked for, and the same ones.
func TestEngineAndDirectGiveTheTokensAsked(t *testing.T) {
	m := tiny(t)
	for _, layout := range []struct{ attention, experts, microBatches int }{{1, 1, 1}, {1, 1, 2}, {2, 3, 2}} {
		o := ServeOptions{Model: m, Attention: layout.attention, Experts: layout.experts, MicroBatches: layout.microBatches, Prompt: 200, Output: 20, Sequences: []int{5}, Threads: 1}
		require.NoError(t, o.fill())
		pool := kernel.NewPool(1)
		defer pool.Close()
		dev, err := kernel.NewCPU(kernel.CPUOptions{Pool: pool})
		require.NoError(t, err)
		w, err := deploy.LoadWeights(t.Context(), m, o.deployment(o.Attention, 5), pool)
		require.NoError(t, err)
		e, err := o.start(t.Context(), w, o.Attention, 5)
		require.NoError(t, err)
		d, err := newPlain(m, o.deployment(o.Attention, 5), w, dev, 5, o.longest(), maxRows)
		require.NoError(t, err)
		run, err := e.run(t.Context(), o.prompts(1, 5), o.Output)
		require.NoError(t, err)
		plain, err := d.run(t.Context(), o.prompts(1, 5), o.Output)
		require.NoError(t, err)
		for i := range plain.tokens {
			require.Len(t, plain.tokens[i], o.Output)
		}
		require.NoError(t, run.same(&plain), "%+v", layout)
		require.NoError(t, e.close())
		d.free()
	}
}

// TestServeRefuses checks what cannot be measured.
func TestServeRefuses(t *testing.T) {
	m := tiny(t)
	for field, o := range map[string]ServeOptions{
		"repeats is -1":          {Repeats: -1},
		"starts is -1":           {Starts: -1},
		"output is 1":            {Output: 1},
		"0 sequences":            {Sequences: []int{0}},
		"max-model-len":          {Prompt: 600},
		"joined by \"carrier\"":  {Processes: []string{"carrier"}, Node: []string{"x"}},
		"2 attention nodes":      {Processes: []string{"shm"}, Node: []string{"x"}, Attention: 2},
		"no command":             {Processes: []string{"shm"}},
		"never decoded together": {Prompt: 400, Output: 2, Sequences: []int{3}, Repeats: 1},
	} {
		o.Model = m
		_, err := Serve(t.Context(), o)
		require.ErrorContains(t, err, field)
	}
}
