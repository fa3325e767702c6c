package bench

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
)

// kernelTurn is what one turn found.
type kernelTurn struct {
	loops Roofline  // the best of the turn's windows
	roof  Roofline  // the same, raised to what the fastest operations did
	times []float64 // of a call of each operation, the best of the passes, in seconds
	// The operations that raised a limit; nil where none did.
	fasterFMA, fasterRead *kernelCase
}

// measureTurn runs the operations passes times, with windows of the roofline
// before, between and after them.
func measureTurn(ctx context.Context, limits *rooflineBench, cases []*kernelCase) (kernelTurn, error) {
	t := kernelTurn{loops: limits.window(), times: make([]float64, len(cases))}
	for i := range t.times {
		t.times[i] = math.Inf(1)
	}
	for range passes {
		for i, c := range cases {
			if err := ctx.Err(); err != nil {
				return t, err
			}
			t.times[i] = min(t.times[i], c.time())
			if (i+1)%casesPerWindow == 0 || i == len(cases)-1 {
				t.loops = t.loops.best(limits.window())
			}
		}
	}
	t.raise(cases)
	return t, nil
}

// raise sets the roofline: where an operation is faster than the loop that
// measures a limit, the limit is at least its rate.
func (t *kernelTurn) raise(cases []*kernelCase) {
	t.roof = t.loops
	for i, c := range cases {
		if rate := c.flops / t.times[i]; rate > t.roof.FMA {
			t.roof.FMA, t.fasterFMA = rate, c
		}
		if rate := c.bytes / t.times[i]; rate > t.roof.Read {
			t.roof.Read, t.fasterRead = rate, c
		}
	}
}

// limit is one of a roofline's.
type limit struct {
	name   string
	unit   string
	of     func(Roofline) float64
	faster func(kernelTurn) *kernelCase // what raised it in a turn; nil where nothing can
}

func limitsOf() []limit {
	return []limit{
		{"f32 multiply-add, one thread", "GFLOP/s", func(r Roofline) float64 { return r.FMA1 }, nil},
		{"f32 multiply-add", "GFLOP/s", func(r Roofline) float64 { return r.FMA }, func(t kernelTurn) *kernelCase { return t.fasterFMA }},
		{"read memory, one thread", "GB/s", func(r Roofline) float64 { return r.Read1 }, nil},
		{"read memory", "GB/s", func(r Roofline) float64 { return r.Read }, func(t kernelTurn) *kernelCase { return t.fasterRead }},
	}
}

// rooflineRows is the limits as rows. windows is how many were measured in all
// turns together.
func rooflineRows(device string, turns []kernelTurn, windows int) []Row {
	var rows []Row
	for _, l := range limitsOf() {
		values := l.values(turns, func(t kernelTurn) Roofline { return t.roof })
		row := Row{Device: device, Name: l.name, Bound: "roofline", Share: 1}
		row.Note = fmt.Sprintf("%.1f to %.1f %s in %d turns, each the best of %d windows before, between and after the operations",
			slices.Min(values), slices.Max(values), l.unit, len(turns), windows/len(turns)) + l.raised(turns)
		if l.unit == "GB/s" {
			row.GBps = median(values)
		} else {
			row.GFLOPS = median(values)
		}
		rows = append(rows, row)
	}
	return rows
}

// values are the limit's of each turn, in its unit.
func (l limit) values(turns []kernelTurn, of func(kernelTurn) Roofline) []float64 {
	var values []float64
	for _, t := range turns {
		values = append(values, l.of(of(t))/1e9)
	}
	return values
}

// raised says which operations were faster than the loop that measures the limit.
func (l limit) raised(turns []kernelTurn) string {
	counts := map[string]int{}
	for _, t := range turns {
		if l.faster == nil {
			break
		}
		if c := l.faster(t); c != nil {
			counts[c.name]++
		}
	}
	text := ""
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		loop := median(l.values(turns, func(t kernelTurn) Roofline { return t.loops }))
		text += fmt.Sprintf("; raised in %d of them to what %s reached (the loop that measures: %.1f %s)", counts[name], name, loop, l.unit)
	}
	return text
}
