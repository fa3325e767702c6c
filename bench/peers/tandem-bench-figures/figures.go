package main

import (
	"cmp"
	"fmt"
	"image/color"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/tandem-moe/tandem/bench/exchange"
)

// The figures of MegaScale-Infer (SIGCOMM 2025) that ours stand beside. Theirs
// are another system's, between GPUs over 200 Gbit/s RDMA: of figures 11 and 12
// the relative numbers are published, against NCCL; those of figure 5 were read
// off it, to 5 %.
const (
	nccl         = "another system (MegaScale-Infer): m2n ÷ NCCL"
	perftestNCCL = "another system (MegaScale-Infer, 128 KB): perftest ÷ NCCL"
)

func at256KB(quotient float64) plotter.XYs { return plotter.XYs{{X: 256 << 10, Y: quotient}} }

// figure is one of them: rows of one kind along an axis.
type figure struct {
	name, title, axis string
	rows              []exchange.Row
	x                 func(exchange.Row) float64
	tick              func(x float64) string
	published         []publication
}

// publication is what another system published of a quantity: quotients, at
// places of the axis, or one for all of it.
type publication struct {
	quantity string
	label    string
	at       plotter.XYs
	all      float64 // where there is no at
}

// line is what is drawn of it between the ends of an axis.
func (p *publication) line(from, to float64) plotter.XYs {
	if len(p.at) > 0 {
		return p.at
	}
	return plotter.XYs{{X: from, Y: p.all}, {X: to, Y: p.all}}
}

// quantity is what a panel shows.
type quantity struct {
	name     string
	absolute string
	of       func(exchange.Row) float64
	// quotient is that of a row to a baseline's.
	quotient func(r exchange.Row, baseline string) (float64, bool)
}

func quantities() []quantity {
	inverse := func(r exchange.Row, baseline string) (float64, bool) {
		x, ok := r.Ratios[baseline]
		return 1 / max(x, 1e-9), ok
	}
	of := func(m func(exchange.Row) map[string]float64) func(exchange.Row, string) (float64, bool) {
		return func(r exchange.Row, baseline string) (float64, bool) {
			x, ok := m(r)[baseline]
			return x, ok
		}
	}
	return []quantity{
		{"median", "median, µs", func(r exchange.Row) float64 { return r.MedianUS }, of(func(r exchange.Row) map[string]float64 { return r.Ratios })},
		{"P99", "P99, µs", func(r exchange.Row) float64 { return r.P99US }, of(func(r exchange.Row) map[string]float64 { return r.P99Ratios })},
		{"throughput", "throughput, GB/s", func(r exchange.Row) float64 { return r.GBps }, inverse},
	}
}

// report is what was measured.
type report struct{ rows []exchange.Row }

// writeFigures draws what the rows have: figure5.svg (one sender, many
// receivers), figure11.svg (sizes, where senders are as many as receivers) and
// figure12.svg (numbers of both). It returns the files that it wrote; a figure
// needs two points.
func (r *report) writeFigures(dir string) (files []string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("figures: %w", err)
	}
	for _, f := range []figure{r.figure5(), r.figure11(), r.figure12()} {
		if len(f.points()) < 2 {
			continue
		}
		path := filepath.Join(dir, f.name+".svg")
		if err := f.write(path); err != nil {
			return files, fmt.Errorf("%s: %w", path, err)
		}
		files = append(files, path)
	}
	return files, nil
}

// figure5 is of one sender.
func (r *report) figure5() figure {
	rows := largestFamily(r.rows, func(row exchange.Row) bool { return row.Senders == 1 },
		func(row exchange.Row) int { return row.Bytes }, func(row exchange.Row) int { return row.Receivers })
	f := figure{
		name: "figure5", axis: "receivers", rows: rows, x: func(r exchange.Row) float64 { return float64(r.Receivers) }, tick: plainTick,
		published: []publication{
			{quantity: "median", label: perftestNCCL, at: plotter.XYs{{X: 8, Y: 45. / 167}, {X: 16, Y: 90. / 306}, {X: 32, Y: 175. / 672}}},
			{quantity: "P99", label: perftestNCCL, at: plotter.XYs{{X: 8, Y: 54. / 1100}, {X: 16, Y: 98. / 1230}, {X: 32, Y: 185. / 1770}}},
		},
	}
	if len(rows) > 0 {
		f.title = fmt.Sprintf("One sender, %s to each receiver", exchange.SizeText(rows[0].Bytes))
	}
	return f
}

// figure11 is of as many senders as receivers, over sizes.
func (r *report) figure11() figure {
	rows := largestFamily(r.rows, func(row exchange.Row) bool { return row.Senders == row.Receivers },
		func(row exchange.Row) int { return row.Senders }, func(row exchange.Row) int { return row.Bytes })
	f := figure{
		name: "figure11", axis: "bytes per pair", rows: rows, x: func(r exchange.Row) float64 { return float64(r.Bytes) }, tick: func(x float64) string { return exchange.SizeText(int(x)) },
		published: []publication{
			{quantity: "median", label: nccl + ", 8 × 8, 256 KB", at: at256KB(1 - 0.682)}, {quantity: "median", label: nccl + ", best", all: 1 - 0.808},
			{quantity: "P99", label: nccl + ", 8 × 8, 256 KB", at: at256KB(1 - 0.929)}, {quantity: "P99", label: nccl + ", best", all: 1 - 0.962},
			{quantity: "throughput", label: nccl + ", 8 × 8, 256 KB", at: at256KB(4.2)}, {quantity: "throughput", label: nccl + ", best", all: 9.9},
		},
	}
	if len(rows) > 0 {
		f.title = fmt.Sprintf("%d senders, %d receivers", rows[0].Senders, rows[0].Receivers)
	}
	return f
}

// figure12 is of as many senders as receivers, over their number.
func (r *report) figure12() figure {
	rows := largestFamily(r.rows, func(row exchange.Row) bool { return row.Senders == row.Receivers },
		func(row exchange.Row) int { return row.Bytes }, func(row exchange.Row) int { return row.Senders })
	f := figure{
		name: "figure12", axis: "senders and receivers, each", rows: rows, x: func(r exchange.Row) float64 { return float64(r.Senders) }, tick: plainTick,
		published: []publication{
			{quantity: "P99", label: nccl + ", least", all: 1 - 0.547}, {quantity: "P99", label: nccl + ", most", all: 1 - 0.969},
			{quantity: "throughput", label: nccl + ", least", all: 3.3}, {quantity: "throughput", label: nccl + ", most", all: 5.8},
		},
	}
	if len(rows) > 0 {
		f.title = fmt.Sprintf("%s per pair", exchange.SizeText(rows[0].Bytes))
	}
	return f
}

func plainTick(x float64) string { return strconv.Itoa(int(x)) }

// largestFamily is, of the rows of one message that are wanted, those of the
// same kind that have most values along the axis.
func largestFamily(rows []exchange.Row, wanted func(exchange.Row) bool, kind, axis func(exchange.Row) int) []exchange.Row {
	families := map[int][]exchange.Row{}
	values := map[int]map[int]bool{}
	for _, row := range rows {
		if row.Messages != 1 || !wanted(row) {
			continue
		}
		k := kind(row)
		families[k] = append(families[k], row)
		if values[k] == nil {
			values[k] = map[int]bool{}
		}
		values[k][axis(row)] = true
	}
	var best []exchange.Row
	most := 0
	for _, k := range slices.Sorted(maps.Keys(families)) {
		if len(values[k]) > most {
			best, most = families[k], len(values[k])
		}
	}
	return best
}

// points are the values of the axis.
func (f *figure) points() []float64 {
	var xs []float64
	for _, r := range f.rows {
		xs = append(xs, f.x(r))
	}
	slices.Sort(xs)
	return slices.Compact(xs)
}

// write draws the panels: above what was measured, below what it is to others.
func (f *figure) write(path string) error {
	columns := quantities()
	panels := make([][]*plot.Plot, 2)
	for _, q := range columns {
		above, err := f.measured(q)
		if err != nil {
			return err
		}
		below, err := f.relative(q)
		if err != nil {
			return err
		}
		panels[0], panels[1] = append(panels[0], above), append(panels[1], below)
	}
	canvas := vgsvg.New(vg.Length(len(columns))*panelWidth, 2*panelHeight)
	tiles := draw.Tiles{Rows: 2, Cols: len(columns), PadX: 12, PadY: 12, PadTop: 6, PadBottom: 6, PadLeft: 6, PadRight: 6}
	for i, row := range plot.Align(panels, tiles, draw.New(canvas)) {
		for j, c := range row {
			panels[i][j].Draw(c)
		}
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := canvas.WriteTo(file); err != nil {
		return cmp.Or(file.Close(), err)
	}
	return file.Close()
}

const (
	panelWidth  = 5 * vg.Inch
	panelHeight = 4 * vg.Inch
)

// panel is an empty one, whose axis has so many places.
func (f *figure) panel(title, y string, places []float64) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, f.axis, y
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.Y.Tick.Marker = plot.TickerFunc(decadeTicks)
	var ticks plot.ConstantTicks
	for _, x := range places {
		ticks = append(ticks, plot.Tick{Value: x, Label: f.tick(x)})
	}
	p.X.Tick.Marker = ticks
	p.X.Min, p.X.Max = slices.Min(places), slices.Max(places)
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.TextStyle.Font.Size = 8
	p.Add(plotter.NewGrid())
	return p
}

// decadeTicks are 1, 2 and 5 of each decade.
func decadeTicks(least, most float64) []plot.Tick {
	var ticks []plot.Tick
	for decade := math.Pow(10, math.Floor(math.Log10(least))); decade <= most; decade *= 10 {
		for _, m := range []float64{1, 2, 5} {
			if v := m * decade; v >= least && v <= most {
				ticks = append(ticks, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'f', max(0, -int(math.Floor(math.Log10(decade)))), 64)})
			}
		}
	}
	return ticks
}

// makeRoom leaves some above the lines, for the legend, and makes a range of
// what has none: logarithms need one.
func makeRoom(p *plot.Plot) *plot.Plot {
	if p.Y.Min > p.Y.Max { // nothing is drawn
		p.Y.Min, p.Y.Max = 1, 1
	}
	p.Y.Max *= math.Pow(max(p.Y.Max/p.Y.Min, 2), 0.6)
	return p
}

// measured is a line for each contestant.
func (f *figure) measured(q quantity) (*plot.Plot, error) {
	p := f.panel(f.title, q.absolute, f.points())
	for i, name := range f.names() {
		var points plotter.XYs
		for _, r := range f.rows {
			if r.Transport == name {
				points = append(points, plotter.XY{X: f.x(r), Y: q.of(r)})
			}
		}
		if err := addLine(p, name, points, plotutil.Color(i), !exchange.Ours(name)); err != nil {
			return nil, err
		}
	}
	return makeRoom(p), nil
}

// names are the contestants, in the order of the rows.
func (f *figure) names() []string {
	var names []string
	for _, r := range f.rows {
		if !slices.Contains(names, r.Transport) {
			names = append(names, r.Transport)
		}
	}
	return names
}

// relative is a line for each of m2n's transports and what it is compared with,
// and the other system's numbers.
func (f *figure) relative(q quantity) (*plot.Plot, error) {
	xs := f.points()
	places := slices.Clone(xs)
	for _, pub := range f.published {
		for _, point := range pub.at {
			places = append(places, point.X)
		}
	}
	slices.Sort(places)
	p := f.panel("m2n ÷ the other", q.name+", quotient", slices.Compact(places))
	i := 0
	for _, name := range f.names() {
		for _, baseline := range rivals(name) {
			var points plotter.XYs
			for _, r := range f.rows {
				if x, ok := q.quotient(r, baseline); ok && r.Transport == name {
					points = append(points, plotter.XY{X: f.x(r), Y: x})
				}
			}
			if err := addLine(p, name+" ÷ "+baseline, points, plotutil.Color(i), false); err != nil {
				return nil, err
			}
			i++
		}
	}
	for _, pub := range f.published {
		if pub.quantity != q.name {
			continue
		}
		if err := addLine(p, pub.label, pub.line(xs[0], xs[len(xs)-1]), color.Gray{Y: 120}, true); err != nil {
			return nil, err
		}
	}
	return makeRoom(p), nil
}

// rivals are what one of m2n's transports is drawn against.
func rivals(transport string) []string {
	switch transport {
	case "shm":
		return []string{"mpi-shm", "grpc"}
	case "m2n-ucx":
		return []string{"ucx", "mpi-shm"}
	case "tcp":
		return []string{"mpi-tcp", "grpc", "raw-crc"}
	}
	return nil
}

// addLine draws points that are joined; none are no line.
func addLine(p *plot.Plot, name string, points plotter.XYs, c color.Color, dashed bool) error {
	if len(points) == 0 {
		return nil
	}
	slices.SortFunc(points, func(a, b plotter.XY) int { return cmp.Compare(a.X, b.X) })
	line, dots, err := plotter.NewLinePoints(points)
	if err != nil {
		return err
	}
	line.Color, dots.Color = c, c
	if dashed {
		line.Dashes = []vg.Length{4, 3}
	}
	p.Add(line, dots)
	p.Legend.Add(name, line, dots)
	return nil
}
