package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// ServeReport is what Serve measured.
type ServeReport struct {
	Machine     Machine
	Threads     int
	Rows        []ServeRow
	Aggregation []AggregationRow

	options *ServeOptions
}

// Layout is what was measured: model, nodes, and the machine that all of them
// ran on.
type Layout struct {
	Model        string  `json:"model"`
	DType        string  `json:"dtype"`
	Attention    int     `json:"attention_nodes"`
	Experts      int     `json:"expert_nodes"`
	MicroBatches int     `json:"micro_batches"`
	Transport    string  `json:"transport"`
	Wire         string  `json:"wire"`
	Combine      string  `json:"combine"`
	Threads      int     `json:"threads"`
	Prompt       int     `json:"prompt_tokens"`
	Output       int     `json:"output_tokens"`
	Repeats      int     `json:"repeats"`
	Machine      Machine `json:"machine"`
}

// ServeRow is one phase of so many sequences at once. Times are means of a run;
// all figures are medians of the repeats.
type ServeRow struct {
	Kind string `json:"kind"` // "serve"
	Layout
	Sequences int `json:"sequences"`
	// Phase is "prompt", until every sequence has its first token, or "decode",
	// while all of them decode.
	Phase string `json:"phase"`
	// TokensPerSecond are prompt tokens or output tokens; Direct is the same work
	// by direct calls, and Ratio the median of the repeats' ratios.
	TokensPerSecond float64   `json:"tokens_per_s"`
	Direct          float64   `json:"direct_tokens_per_s"`
	Ratio           float64   `json:"ratio"`
	Ratios          []float64 `json:"ratios"` // repeat by repeat
	// AttentionSeconds and ExpertSeconds are T_a and T_e, per micro-batch and
	// layer, computing alone; TransferSeconds is T_c, from post to completion.
	AttentionSeconds float64 `json:"attention_s"`
	ExpertSeconds    float64 `json:"expert_s"`
	TransferSeconds  float64 `json:"transfer_s"`
	// AttentionBubble and ExpertBubble are 1 − busy/wall of the pool.
	AttentionBubble float64 `json:"attention_bubble"`
	ExpertBubble    float64 `json:"expert_bubble"`
	// Aggregation is rows per expert call ÷ rows per message, RowsPerExpert the
	// rows of an expert in a call, where it had any.
	Aggregation   float64 `json:"aggregation"`
	RowsPerExpert float64 `json:"rows_per_expert"`
	// Steps and DirectSteps are the model's steps in the whole run: with one
	// attention node and one micro-batch they are the same.
	Steps       float64 `json:"steps"`
	DirectSteps float64 `json:"direct_steps"`
}

// AggregationRow is how many messages an expert node joined in runs of equally
// loaded attention nodes.
type AggregationRow struct {
	Kind string `json:"kind"` // "aggregation"
	Layout
	Sequences     int     `json:"sequences"`
	Aggregation   float64 `json:"aggregation"`
	Share         float64 `json:"share"` // of the attention nodes' number
	RowsPerExpert float64 `json:"rows_per_expert"`
	// LeastRows and MostRows are those of the attention nodes with the fewest and
	// the most: how equally they were loaded.
	LeastRows uint64 `json:"least_rows"`
	MostRows  uint64 `json:"most_rows"`
}

func (r *ServeReport) layout() Layout {
	o := r.options
	l := Layout{
		Model: o.Model.Name, DType: o.Model.Spec.DType, Attention: o.Attention, Experts: o.Experts, MicroBatches: o.MicroBatches,
		Transport: o.Transport, Wire: o.Wire.Rows.String(), Combine: o.Wire.Combine.String(), Threads: r.Threads, Prompt: o.Prompt, Output: o.Output, Repeats: o.Repeats, Machine: r.Machine,
	}
	if l.Transport == "" {
		l.Transport = "inproc"
	}
	return l
}

// rows are the two phases of so many sequences.
func (r *ServeReport) rows(sequences int, runs []pairOfRuns) []ServeRow {
	prompt := r.row(sequences, runs, func(p pairOfRuns) (phase, float64, float64) {
		return p.engine.prompt, p.enginePrompt, p.directPrompt
	})
	decode := r.row(sequences, runs, func(p pairOfRuns) (phase, float64, float64) {
		return p.engine.decode, p.engineDecode, p.directDecode
	})
	prompt.Phase, decode.Phase = "prompt", "decode"
	return []ServeRow{prompt, decode}
}

// row takes medians. of picks a phase and the rates of engine and direct calls.
func (r *ServeReport) row(sequences int, runs []pairOfRuns, of func(pairOfRuns) (phase, float64, float64)) ServeRow {
	pick := func(figure func(p phase) float64) float64 {
		return medianOf(runs, func(run pairOfRuns) float64 {
			p, _, _ := of(run)
			return figure(p)
		})
	}
	row := ServeRow{
		Kind: "serve", Layout: r.layout(), Sequences: sequences,
		AttentionSeconds: pick(func(p phase) float64 { return p.attention }),
		ExpertSeconds:    pick(func(p phase) float64 { return p.expert }),
		TransferSeconds:  pick(func(p phase) float64 { return p.transfer }),
		AttentionBubble:  pick(func(p phase) float64 { return p.attentionBubble }),
		ExpertBubble:     pick(func(p phase) float64 { return p.expertBubble }),
		Aggregation:      pick(func(p phase) float64 { return p.aggregation }),
		RowsPerExpert:    pick(func(p phase) float64 { return p.rowsPerExpert }),
		Steps:            medianOf(runs, func(run pairOfRuns) float64 { return float64(run.engine.steps) }),
		DirectSteps:      medianOf(runs, func(run pairOfRuns) float64 { return float64(run.directSteps) }),
	}
	var engine, direct []float64
	for _, run := range runs {
		_, e, d := of(run)
		engine, direct = append(engine, e), append(direct, d)
		row.Ratios = append(row.Ratios, e/d)
	}
	row.TokensPerSecond, row.Direct, row.Ratio = median(engine), median(direct), median(row.Ratios)
	return row
}

// medianOf is the median of a figure over runs.
func medianOf(runs []pairOfRuns, figure func(pairOfRuns) float64) float64 {
	var values []float64
	for _, r := range runs {
		values = append(values, figure(r))
	}
	return median(values)
}

func (r *ServeReport) aggregationRow(nodes int, p phase) AggregationRow {
	l := r.layout()
	l.Attention = nodes
	return AggregationRow{
		Kind: "aggregation", Layout: l, Sequences: nodes * aggregationSequences,
		Aggregation: p.aggregation, Share: p.aggregation / float64(nodes), RowsPerExpert: p.rowsPerExpert,
		LeastRows: p.least, MostRows: p.most,
	}
}

// WriteJSON prints the report for machines, one object a line.
func (r *ServeReport) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	for _, row := range r.Rows {
		if err := e.Encode(row); err != nil {
			return err
		}
	}
	for _, row := range r.Aggregation {
		if err := e.Encode(row); err != nil {
			return err
		}
	}
	return nil
}

// WriteTable prints the report for people.
func (r *ServeReport) WriteTable(w io.Writer) {
	l := r.layout()
	fmt.Fprintf(w, "%v\n%s (%s), %d attention × %d expert nodes, %d micro-batches, %s, wire %s, combine %s, %d threads; prompts of %d tokens, outputs of %d; medians of %d\n",
		l.Machine, l.Model, l.DType, l.Attention, l.Experts, l.MicroBatches, l.Transport, l.Wire, l.Combine, l.Threads, l.Prompt, l.Output, l.Repeats)
	t := newTable(w, "sequences", "phase", "tokens/s", "direct", "ratio", "T_a", "T_e", "T_c", "bubble A", "bubble E", "aggregation", "rows/expert")
	for _, row := range r.Rows {
		t.AppendRow(table.Row{
			row.Sequences, row.Phase, figure(row.TokensPerSecond), figure(row.Direct), fmt.Sprintf("%.3f", row.Ratio),
			duration(row.AttentionSeconds), duration(row.ExpertSeconds), duration(row.TransferSeconds),
			percent(row.AttentionBubble), percent(row.ExpertBubble), fmt.Sprintf("%.2f", row.Aggregation), figure(row.RowsPerExpert),
		})
	}
	t.Render()
	if len(r.Aggregation) == 0 {
		return
	}
	t = newTable(w, "attention nodes", "sequences", "aggregation", "share", "rows/expert")
	for _, row := range r.Aggregation {
		t.AppendRow(table.Row{row.Attention, row.Sequences, fmt.Sprintf("%.2f", row.Aggregation), percent(row.Share), figure(row.RowsPerExpert)})
	}
	t.Render()
}

// newTable is a table whose figures are flush right.
func newTable(w io.Writer, header ...string) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault // T_a is not T_A
	var row table.Row
	var columns []table.ColumnConfig
	for i, name := range header {
		row = append(row, name)
		columns = append(columns, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	t.AppendHeader(row)
	t.SetColumnConfigs(columns)
	return t
}

// duration prints seconds with three digits.
func duration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Millisecond:
		return d.Round(100 * time.Nanosecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

func percent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }
