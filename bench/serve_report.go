package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
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
	Repeats      int     `json:"repeats"` // after a start
	Starts       int     `json:"starts"`
	Machine      Machine `json:"machine"`
}

// ServeRow is one phase of so many sequences at once. Times are means of a run;
// all figures are medians of the repeats.
type ServeRow struct {
	Kind string `json:"kind"` // "serve"
	Layout
	// Nodes says where the nodes are: in "one process", or in "processes" of their
	// own beside that of the front end.
	Nodes     string `json:"nodes"`
	Sequences int    `json:"sequences"`
	// Phase is "prompt", until every sequence has its first token, or "decode",
	// while all of them decode.
	Phase string `json:"phase"`
	// TokensPerSecond are prompt tokens or output tokens; Direct is the same work
	// by direct calls, and Ratio the median of the repeats' ratios.
	TokensPerSecond float64   `json:"tokens_per_s"`
	Direct          float64   `json:"direct_tokens_per_s"`
	Ratio           float64   `json:"ratio"`
	Ratios          []float64 `json:"ratios"` // repeat by repeat
	// OneProcess is the same work by the nodes in one process; OneProcessRatio is
	// the median of the ratios to it.
	OneProcess       float64   `json:"one_process_tokens_per_s"`
	OneProcessRatio  float64   `json:"one_process_ratio"`
	OneProcessRatios []float64 `json:"one_process_ratios"` // repeat by repeat
	// QuickStep is the tenth percentile of the times of decode steps, which a busy
	// machine lengthens least; QuickStepRatio is that of one process ÷ this one.
	QuickStep      float64 `json:"step_p10_s,omitempty"`
	QuickStepRatio float64 `json:"one_process_step_p10_ratio,omitempty"`
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
	// CPUSeconds is the processor time of a token, that of the front end included.
	CPUSeconds float64 `json:"cpu_s_per_token"`
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
		Transport: o.Transport, Wire: o.Wire.Rows.String(), Combine: o.Wire.Combine.String(), Threads: r.Threads, Prompt: o.Prompt, Output: o.Output, Repeats: o.Repeats, Starts: o.Starts, Machine: r.Machine,
	}
	if l.Transport == "" {
		l.Transport = "inproc"
	}
	return l
}

// rows are the two phases of so many sequences, for each engine.
func (r *ServeReport) rows(all contestants, sequences int, turns []turn) []ServeRow {
	prompt := func(t timed) (phase, float64) { return t.prompt, t.promptRate }
	decode := func(t timed) (phase, float64) { return t.decode, t.decodeRate }
	var rows []ServeRow
	for i, c := range all {
		if i == directCalls {
			continue
		}
		rows = append(rows, r.row(c, i, sequences, "prompt", turns, prompt), r.row(c, i, sequences, "decode", turns, decode))
	}
	return rows
}

// row takes medians of the i-th contestant's runs. of picks a phase and the rate
// in it.
func (r *ServeReport) row(c contestant, i, sequences int, name string, turns []turn, of func(timed) (phase, float64)) ServeRow {
	pick := func(figure func(p phase) float64) float64 {
		return medianOf(turns, func(t turn) float64 {
			p, _ := of(t[i])
			return figure(p)
		})
	}
	row := ServeRow{
		Kind: "serve", Layout: r.layout(), Nodes: c.layout, Sequences: sequences, Phase: name,
		AttentionSeconds: pick(func(p phase) float64 { return p.attention }),
		ExpertSeconds:    pick(func(p phase) float64 { return p.expert }),
		TransferSeconds:  pick(func(p phase) float64 { return p.transfer }),
		AttentionBubble:  pick(func(p phase) float64 { return p.attentionBubble }),
		ExpertBubble:     pick(func(p phase) float64 { return p.expertBubble }),
		Aggregation:      pick(func(p phase) float64 { return p.aggregation }),
		RowsPerExpert:    pick(func(p phase) float64 { return p.rowsPerExpert }),
		CPUSeconds:       medianOf(turns, func(t turn) float64 { return t[i].cpuPerToken(name, r.options.Prompt*sequences) }),
		Steps:            medianOf(turns, func(t turn) float64 { return float64(t[i].steps) }),
		DirectSteps:      medianOf(turns, func(t turn) float64 { return float64(t[directCalls].steps) }),
	}
	row.Transport = c.transport
	rate := func(t turn, i int) float64 {
		_, rate := of(t[i])
		return rate
	}
	row.TokensPerSecond = medianOf(turns, func(t turn) float64 { return rate(t, i) })
	row.Direct = medianOf(turns, func(t turn) float64 { return rate(t, directCalls) })
	row.OneProcess = medianOf(turns, func(t turn) float64 { return rate(t, onProcess) })
	for _, t := range turns {
		row.Ratios = append(row.Ratios, rate(t, i)/rate(t, directCalls))
		row.OneProcessRatios = append(row.OneProcessRatios, rate(t, i)/rate(t, onProcess))
	}
	row.Ratio, row.OneProcessRatio = median(row.Ratios), median(row.OneProcessRatios)
	if name == "decode" {
		row.QuickStep = quickStep(turns, i)
		row.QuickStepRatio = quickStep(turns, onProcess) / row.QuickStep
	}
	return row
}

// quickStep is the tenth percentile of the times of the i-th contestant's decode
// steps in all turns.
func quickStep(turns []turn, i int) float64 {
	var all []float64
	for _, t := range turns {
		all = append(all, t[i].intervals()...)
	}
	slices.Sort(all)
	return all[len(all)/10]
}

// medianOf is the median of a figure over turns.
func medianOf(turns []turn, figure func(turn) float64) float64 {
	var values []float64
	for _, t := range turns {
		values = append(values, figure(t))
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

// WriteTable prints the report for people, in at most 100 columns: how fast each
// engine was, where its time went, and how well attention nodes add up.
func (r *ServeReport) WriteTable(w io.Writer) {
	r.writeHeading(w)
	r.writeSpeeds(w)
	r.writeTimes(w)
	r.writeAggregation(w)
}

func (r *ServeReport) writeHeading(w io.Writer) {
	l := r.layout()
	fmt.Fprintln(w, l.Machine)
	fmt.Fprintf(w, "%s (%s), %d attention × %d expert nodes, %d micro-batches, %s, wire %s, combine %s\n",
		l.Model, l.DType, l.Attention, l.Experts, l.MicroBatches, l.Transport, l.Wire, l.Combine)
	fmt.Fprintf(w, "%d threads; prompts of %d tokens, outputs of %d; medians of %d turns after %d starts\n",
		l.Threads, l.Prompt, l.Output, l.Starts*l.Repeats, l.Starts)
}

// writeSpeeds prints tokens a second, and what they are to others of the same turns.
func (r *ServeReport) writeSpeeds(w io.Writer) {
	t := newTable(w, "nodes", "seqs", "phase", "tokens/s", "÷ one\nprocess", "by\nP10", "direct", "÷\ndirect", "CPU/\ntoken")
	for _, row := range r.Rows {
		t.AppendRow(append(row.name(), figure(row.TokensPerSecond), fmt.Sprintf("%.3f", row.OneProcessRatio),
			fmt.Sprintf("%.3f", row.QuickStepRatio), figure(row.Direct), fmt.Sprintf("%.3f", row.Ratio), duration(row.CPUSeconds)))
	}
	t.Render()
}

// writeTimes prints what a micro-batch's layer took in attention, experts and
// transfer, how long each side waited, and how many rows met.
func (r *ServeReport) writeTimes(w io.Writer) {
	t := newTable(w, "nodes", "seqs", "phase", "T_a", "T_e", "T_c", "bubbles\nA / E", "aggre-\ngation", "rows/\nexpert")
	for _, row := range r.Rows {
		t.AppendRow(append(row.name(), duration(row.AttentionSeconds), duration(row.ExpertSeconds), duration(row.TransferSeconds),
			fmt.Sprintf("%.0f / %s", 100*row.AttentionBubble, percent(row.ExpertBubble)), fmt.Sprintf("%.2f", row.Aggregation), figure(row.RowsPerExpert)))
	}
	t.Render()
}

// name is the cells that say which row it is. The heading has the transport of the
// nodes in one process.
func (row *ServeRow) name() table.Row {
	nodes := row.Nodes
	if nodes == "processes" {
		nodes += ", " + row.Transport
	}
	return table.Row{nodes, row.Sequences, row.Phase}
}

func (r *ServeReport) writeAggregation(w io.Writer) {
	if len(r.Aggregation) == 0 {
		return
	}
	t := newTable(w, "attention nodes", "sequences", "aggregation", "share", "rows/expert")
	for _, row := range r.Aggregation {
		t.AppendRow(table.Row{
			row.Attention, row.Sequences, fmt.Sprintf("%.2f", row.Aggregation), percent(row.Share), figure(row.RowsPerExpert),
		})
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
