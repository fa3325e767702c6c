// Package bench owns the measuring behind `tandem bench`: what runs, how often,
// and how results print. It may not know how commands are parsed.
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/tandem-moe/tandem/kernel"
)

// KernelOptions says what Kernel measures; the zero value is everything that
// the machine has.
type KernelOptions struct {
	ISA     kernel.ISA
	Threads int // 0: all
	// Repeats is how many turns there are; 0 means 7. In each, every operation
	// runs passes times. The figures are medians of the turns.
	Repeats int
	// Memory is the bytes that operations stream through, more than the caches
	// hold; 0 means 256 MiB.
	Memory int
}

// Row is one line of results: an operation beside the least time that the
// machine's roofline, measured in the same turns, allows it.
type Row struct {
	Device    string  `json:"device"`
	Name      string  `json:"name"`
	Bound     string  `json:"bound"`        // "compute", "memory", or "roofline" for the limits themselves
	GFLOPS    float64 `json:"gflops"`       // 10⁹ float32 operations a second
	GBps      float64 `json:"gb_per_s"`     // 10⁹ bytes a second, those that must come from memory
	Predicted float64 `json:"predicted_us"` // by the roofline
	Measured  float64 `json:"measured_us"`
	Share     float64 `json:"share"` // the median of predicted ÷ measured, turn by turn
	// Note says of a limit how it was measured, and which operation was faster
	// than the loop that measures it.
	Note string `json:"note,omitempty"`
}

const (
	// passes is how often a turn measures each operation. The best counts, as of
	// the roofline's windows: what disturbs one of them does not decide.
	passes = 5
	// casesPerWindow is how many operations run between two windows of the
	// roofline.
	casesPerWindow = 12
)

// Kernel measures the roofline of this machine and each primitive's share of
// it. Machines change their speed by the minute: limits and operations are
// measured in turns, windows of the limits before, between and after the
// operations, and compared within each turn, best with best.
func Kernel(ctx context.Context, o KernelOptions) ([]Row, error) {
	o = o.withDefaults()
	pool := kernel.NewPool(o.Threads)
	defer pool.Close()
	dev, err := kernel.NewCPU(kernel.CPUOptions{ISA: o.ISA, Threads: o.Threads, Pool: pool})
	if err != nil {
		return nil, fmt.Errorf("bench kernel: %w", err)
	}
	s := &setup{dev: dev, memory: o.Memory}
	defer s.free()
	cases, err := kernelCases(s)
	if err != nil {
		return nil, fmt.Errorf("bench kernel: %w", err)
	}
	limits := newRooflineBench(pool, s.stream.Bytes())
	var turns []kernelTurn
	for range o.Repeats {
		turn, err := measureTurn(ctx, limits, cases)
		if err != nil {
			return nil, fmt.Errorf("bench kernel: %w", err)
		}
		turns = append(turns, turn)
	}
	rows := rooflineRows(dev.Properties().Name, turns, limits.windows)
	for i, c := range cases {
		rows = append(rows, c.row(dev.Properties().Name, turns, i))
	}
	return rows, nil
}

func (o KernelOptions) withDefaults() KernelOptions {
	if o.Repeats == 0 {
		o.Repeats = 7
	}
	if o.Memory == 0 {
		o.Memory = 256 << 20
	}
	o.Memory = max(o.Memory/readPiece, 1) * readPiece
	return o
}

// kernelCase is one operation, repeated often enough to be timed.
type kernelCase struct {
	name  string
	flops float64 // of one call
	bytes float64 // that must come from memory for one call
	calls int     // in a measurement
	run   func(call int)
}

// time is the seconds of one call.
func (c *kernelCase) time() float64 {
	start := time.Now()
	for i := range c.calls {
		c.run(i)
	}
	return time.Since(start).Seconds() / float64(c.calls)
}

// row is what the turns say of the operation, number i of theirs.
func (c *kernelCase) row(device string, turns []kernelTurn, i int) Row {
	var times, predicted, shares []float64
	memory := 0 // turns in which memory bounds it
	for _, t := range turns {
		least := t.roof.predict(c.flops, c.bytes)
		times, predicted, shares = append(times, t.times[i]), append(predicted, least), append(shares, least/t.times[i])
		if c.bytes/t.roof.Read >= c.flops/t.roof.FMA {
			memory++
		}
	}
	bound := "compute"
	if 2*memory >= len(turns) {
		bound = "memory"
	}
	took := median(times)
	return Row{
		Device: device, Name: c.name, Bound: bound,
		GFLOPS: c.flops / took / 1e9, GBps: c.bytes / took / 1e9,
		Predicted: median(predicted) * 1e6, Measured: took * 1e6, Share: median(shares),
	}
}

func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	return s[len(s)/2]
}

// WriteTable prints rows for people.
func WriteTable(w io.Writer, rows []Row) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	if len(rows) > 0 {
		t.SetTitle(rows[0].Device)
	}
	t.AppendHeader(table.Row{"operation", "bound by", "GFLOP/s", "GB/s", "predicted µs", "measured µs", "share"})
	for _, r := range rows {
		t.AppendRow(table.Row{r.Name, r.Bound, figure(r.GFLOPS), figure(r.GBps), figure(r.Predicted), figure(r.Measured), fmt.Sprintf("%.0f %%", 100*r.Share)})
	}
	var columns []table.ColumnConfig
	for n := 3; n <= 7; n++ {
		columns = append(columns, table.ColumnConfig{Number: n, Align: text.AlignRight})
	}
	t.SetColumnConfigs(columns)
	t.Render()
	for _, r := range rows {
		if r.Note != "" {
			fmt.Fprintf(w, "%s: %s\n", r.Name, r.Note)
		}
	}
}

// figure prints three digits or so, and nothing for zero.
func figure(v float64) string {
	switch {
	case v == 0:
		return ""
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// WriteJSON prints rows for machines, as one array.
func WriteJSON(w io.Writer, rows []Row) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(rows)
}
