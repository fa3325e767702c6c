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
	// Repeats is how often everything is measured, in turns; 0 means 7. The
	// figures are medians.
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
}

// Kernel measures the roofline of this machine and each primitive's share of
// it. Machines change their speed by the minute: limits and operations are
// measured in turns, and compared within each.
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
	limits := &rooflineBench{pool: pool, threads: pool.Workers(), memory: s.stream.Bytes()}
	var roofs []Roofline
	for range o.Repeats {
		roof := limits.measure()
		roofs = append(roofs, roof)
		for _, c := range cases {
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("bench kernel: %w", err)
			}
			c.measure(roof)
		}
	}
	rows := rooflineRows(dev.Properties().Name, roofs)
	for _, c := range cases {
		rows = append(rows, c.row(dev.Properties().Name))
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
	name   string
	flops  float64 // of one call
	bytes  float64 // that must come from memory for one call
	calls  int     // in a measurement
	run    func(call int)
	times  []float64 // of one call, in seconds
	shares []float64
	roofs  []float64 // predicted times
	bound  string
}

// measure times the operation and compares it with the roofline of the turn.
func (c *kernelCase) measure(roof Roofline) {
	start := time.Now()
	for i := range c.calls {
		c.run(i)
	}
	took := time.Since(start).Seconds() / float64(c.calls)
	predicted := roof.predict(c.flops, c.bytes)
	c.bound = "memory"
	if c.flops/roof.FMA > c.bytes/roof.Read {
		c.bound = "compute"
	}
	c.times = append(c.times, took)
	c.roofs = append(c.roofs, predicted)
	c.shares = append(c.shares, predicted/took)
}

func (c *kernelCase) row(device string) Row {
	took := median(c.times)
	return Row{
		Device: device, Name: c.name, Bound: c.bound,
		GFLOPS: c.flops / took / 1e9, GBps: c.bytes / took / 1e9,
		Predicted: median(c.roofs) * 1e6, Measured: took * 1e6, Share: median(c.shares),
	}
}

// rooflineRows is the limits as rows.
func rooflineRows(device string, roofs []Roofline) []Row {
	of := func(name string, pick func(Roofline) float64, row func(v float64) Row) Row {
		values := make([]float64, len(roofs))
		for i, r := range roofs {
			values[i] = pick(r) / 1e9
		}
		r := row(median(values))
		r.Device, r.Name, r.Bound, r.Share = device, name, "roofline", 1
		return r
	}
	flops := func(v float64) Row { return Row{GFLOPS: v} }
	bytes := func(v float64) Row { return Row{GBps: v} }
	return []Row{
		of("f32 multiply-add, one thread", func(r Roofline) float64 { return r.FMA1 }, flops),
		of("f32 multiply-add", func(r Roofline) float64 { return r.FMA }, flops),
		of("read memory, one thread", func(r Roofline) float64 { return r.Read1 }, bytes),
		of("read memory", func(r Roofline) float64 { return r.Read }, bytes),
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
