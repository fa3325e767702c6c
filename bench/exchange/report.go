package exchange

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Report is what Run measured.
type Report struct {
	Rows     []Row
	Skipped  []Skipped
	LineRate float64 // bit/s; 0: compared with copying memory
	Repeats  int
}

// Row is one contestant with one shape.
type Row struct {
	Kind string `json:"kind"` // "m2n"
	// Transport is m2n's, or the baseline.
	Transport string `json:"transport"`
	Shape
	// MedianUS and P99US are of all iterations of all repeats, from the common
	// start until the last receiver holds all its rows.
	MedianUS float64 `json:"median_us"`
	P99US    float64 `json:"p99_us"`
	// GBps is 10⁹ bytes a second: all bytes of an iteration ÷ its median.
	GBps float64 `json:"gb_per_s"`
	// CPUPerGB is the user and system seconds of all ends for 10⁹ bytes; null
	// where it is not known.
	CPUPerGB *float64 `json:"cpu_s_per_gb"`
	// LineGBps is the limit and Share the part of it that was reached: of the
	// busiest node's link, or of copying memory in the same turns.
	Line     string  `json:"line"` // "link" or "memory copy"
	LineGBps float64 `json:"line_gb_per_s"`
	Share    float64 `json:"share_of_line"`
	// Ratios and P99Ratios are this row's time ÷ a baseline's: the median of the
	// repeats' ratios.
	Ratios     map[string]float64 `json:"ratios"`
	P99Ratios  map[string]float64 `json:"p99_ratios"`
	Iterations int                `json:"iterations"`
	Repeats    int                `json:"repeats"`
	Processes  int                `json:"processes"`
	Cores      int                `json:"cores"`
}

// Skipped is a contestant that was not measured.
type Skipped struct {
	Kind      string `json:"kind"` // "skipped"
	Transport string `json:"transport"`
	Shape
	Reason string `json:"reason"`
}

// add makes the rows of a shape. copied is the bandwidth of copying memory.
func (r *Report) add(s Shape, entrants []*entrant, copied float64) {
	for _, e := range entrants {
		row := Row{
			Kind: "m2n", Transport: e.name, Shape: s, Ratios: map[string]float64{}, P99Ratios: map[string]float64{},
			Repeats: r.Repeats, Processes: s.processes(), Cores: cores(),
		}
		row.measured(e.turns)
		row.compareLine(r.LineRate, copied)
		for _, other := range entrants {
			if other != e && !Ours(other.name) {
				row.Ratios[other.name] = ratio(e.turns, other.turns, median)
				row.P99Ratios[other.name] = ratio(e.turns, other.turns, p99)
			}
		}
		r.Rows = append(r.Rows, row)
	}
}

// measured sets what the times come to.
func (r *Row) measured(turns []turn) {
	times := allTimes(turns)
	r.MedianUS, r.P99US = median(times)*1e6, p99(times)*1e6
	r.GBps = float64(r.total()) / median(times) / 1e9
	var cpu, bytes float64
	for _, t := range turns {
		r.Iterations += t.iterations
		cpu, bytes = cpu+t.cpu, bytes+t.bytes
	}
	if bytes > 0 {
		perGB := cpu / bytes * 1e9
		r.CPUPerGB = &perGB
	}
}

// compareLine sets the limit and its share.
func (r *Row) compareLine(lineRate, copied float64) {
	r.Line, r.LineGBps = "memory copy", copied/1e9
	r.Share = r.GBps / r.LineGBps
	if lineRate > 0 {
		r.Line, r.LineGBps = "link", lineRate/8/1e9
		r.Share = float64(r.busiest()) / (r.MedianUS * 1e3) / r.LineGBps
	}
}

// WriteJSON prints the report for machines, one object a line.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	for _, row := range r.Rows {
		if err := e.Encode(row); err != nil {
			return err
		}
	}
	for _, s := range r.Skipped {
		if err := e.Encode(s); err != nil {
			return err
		}
	}
	return nil
}

// WriteTable prints the report for people.
func (r *Report) WriteTable(w io.Writer) {
	baselines := r.baselines()
	fmt.Fprintf(w, "m2n and others, each end a process, %d cores; medians over all of %d turns; × is a row's median ÷ the other's\n", cores(), r.Repeats)
	header := table.Row{"exchange", "transport", "median µs", "P99 µs", "GB/s", "CPU s/GB", "of " + r.line()}
	for _, b := range baselines {
		header = append(header, "× "+b)
	}
	t := newTable(w, append(header, "iterations"))
	for i, row := range r.Rows {
		if i > 0 && r.Rows[i-1].Shape != row.Shape {
			t.AppendSeparator()
		}
		t.AppendRow(row.cells(baselines))
	}
	t.Render()
	for _, line := range r.omissions() {
		fmt.Fprintln(w, line)
	}
}

// omissions say what is missing, and why, once for each reason.
func (r *Report) omissions() []string {
	var reasons []string
	shapes := map[string][]string{}
	for _, s := range r.Skipped {
		reason := s.Transport + ": " + s.Reason
		if shapes[reason] == nil {
			reasons = append(reasons, reason)
		}
		shapes[reason] = append(shapes[reason], s.Shape.String())
	}
	for i, reason := range reasons {
		reasons[i] = fmt.Sprintf("%s (%s)", reason, strings.Join(shapes[reason], "; "))
	}
	return reasons
}

// baselines are the others' names, in the order of the rows.
func (r *Report) baselines() []string {
	var names []string
	for _, row := range r.Rows {
		if !Ours(row.Transport) && !slices.Contains(names, row.Transport) {
			names = append(names, row.Transport)
		}
	}
	return names
}

func (r *Report) line() string {
	if r.LineRate > 0 {
		return "link"
	}
	return "copy"
}

func (r *Row) cells(baselines []string) table.Row {
	cpu := ""
	if r.CPUPerGB != nil {
		cpu = fmt.Sprintf("%.3g", *r.CPUPerGB)
	}
	cells := table.Row{r.Shape, r.Transport, digits(r.MedianUS), digits(r.P99US),
		fmt.Sprintf("%.3g", r.GBps), cpu, fmt.Sprintf("%.0f %%", 100*r.Share)}
	for _, b := range baselines {
		cell := ""
		if x, ok := r.Ratios[b]; ok {
			cell = fmt.Sprintf("%.2f", x)
		}
		cells = append(cells, cell)
	}
	return append(cells, r.Iterations)
}

// digits prints three digits or more.
func digits(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// newTable is a table whose figures are flush right.
func newTable(w io.Writer, header table.Row) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	t.AppendHeader(header)
	var columns []table.ColumnConfig
	for i := range header {
		if i > 1 { // but the names
			columns = append(columns, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
		}
	}
	t.SetColumnConfigs(columns)
	return t
}
