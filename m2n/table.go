package m2n

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// column is one of the table's.
type column struct {
	group, name string
	text        bool // aligned left, as words are
	cell        func(*PeerStats) string
}

// columns are the table's. A group's name stands above the first of its columns.
var columns = []column{
	{"", "endpoint", true, func(p *PeerStats) string { return p.Endpoint }},
	{"", "peer", true, func(p *PeerStats) string { return p.Peer }},
	{"", "epoch", false, func(p *PeerStats) string { return number(p.Epoch) }},
	{"", "transport", true, func(p *PeerStats) string { return cmp.Or(p.Transport, "-") }},
	{"", "state", true, func(p *PeerStats) string { return p.State }},
	{"sent", "messages", false, func(p *PeerStats) string { return number(Total(p.Sent).Messages) }},
	{"", "bytes", false, func(p *PeerStats) string { return size(Total(p.Sent).Bytes) }},
	{"received", "messages", false, func(p *PeerStats) string { return number(Total(p.Received).Messages) }},
	{"", "bytes", false, func(p *PeerStats) string { return size(Total(p.Received).Bytes) }},
	{"now", "queued", false, func(p *PeerStats) string { return number(uint64(p.Queued)) }},
	{"", "credit", false, func(p *PeerStats) string { return number(uint64(p.Credit)) }},
	{"credit waits", "times", false, func(p *PeerStats) string { return number(p.CreditWaits) }},
	{"", "sum", false, func(p *PeerStats) string { return span(p.CreditTime.Sum) }},
	{"queue", "median", false, quantile(0.5, func(p *PeerStats) *Histogram { return &p.QueueTime })},
	{"", "p99", false, quantile(0.99, func(p *PeerStats) *Histogram { return &p.QueueTime })},
	{"wire", "median", false, quantile(0.5, func(p *PeerStats) *Histogram { return &p.WireTime })},
	{"", "p99", false, quantile(0.99, func(p *PeerStats) *Histogram { return &p.WireTime })},
	{"total", "median", false, quantile(0.5, func(p *PeerStats) *Histogram { return &p.TotalTime })},
	{"", "p99", false, quantile(0.99, func(p *PeerStats) *Histogram { return &p.TotalTime })},
	{"receive", "median", false, quantile(0.5, func(p *PeerStats) *Histogram { return &p.ReceiveTime })},
	{"", "p99", false, quantile(0.99, func(p *PeerStats) *Histogram { return &p.ReceiveTime })},
	{"connection", "made", false, func(p *PeerStats) string { return number(p.Connects) }},
	{"", "lost", false, func(p *PeerStats) string { return number(p.Losses) }},
	{"", "retries", false, func(p *PeerStats) string { return number(p.Retries) }},
	{"", "resent", false, func(p *PeerStats) string { return number(p.Retransmits) }},
	{"", "dropped", false, func(p *PeerStats) string { return number(p.DroppedOld) }},
}

// quantile is a cell with the upper bound of one; a dash where nothing was counted.
func quantile(q float64, of func(*PeerStats) *Histogram) func(*PeerStats) string {
	return func(p *PeerStats) string {
		h := of(p)
		if h.Count == 0 {
			return "-"
		}
		return span(h.Quantile(q))
	}
}

// WriteTable writes pairs as a table for people, a line each, by endpoint and
// peer in natural order: two lines of headings, aligned columns, units in the
// cells. Medians and P99 are upper bounds, powers of two nanoseconds. The column of
// endpoints is left out where no pair names one. Below stand the reasons for the
// choice of transports, with the pairs that each is for.
func WriteTable(w io.Writer, pairs []PeerStats) error {
	rows := slices.Clone(pairs)
	slices.SortStableFunc(rows, func(a, b PeerStats) int {
		return cmp.Or(natural(a.Endpoint, b.Endpoint), natural(a.Peer, b.Peer), cmp.Compare(a.Epoch, b.Epoch))
	})
	out := bufio.NewWriter(w)
	grid := newGrid(rows)
	for line := range len(rows) + headings {
		out.WriteString(grid.line(line)) //nolint:errcheck // Flush reports it
		out.WriteByte('\n')              //nolint:errcheck // the same
	}
	for _, line := range reasons(rows) {
		out.WriteString(line + "\n") //nolint:errcheck // the same
	}
	return out.Flush()
}

// reasons are the lines that say why transports were chosen, an empty one first.
func reasons(rows []PeerStats) []string {
	var order []string
	pairs := make(map[string][]string)
	for _, p := range rows {
		if p.Why == "" {
			continue
		}
		if pairs[p.Why] == nil {
			order = append(order, p.Why)
		}
		name := p.Peer
		if p.Endpoint != "" {
			name = p.Endpoint + ">" + p.Peer
		}
		pairs[p.Why] = append(pairs[p.Why], name)
	}
	lines := []string{""}[:min(1, len(order))]
	for _, why := range order {
		lines = append(lines, why+" ("+strings.Join(pairs[why], ", ")+")")
	}
	return lines
}

// headings is the number of the lines above the pairs.
const headings = 2

// grid is a table as text: its columns from top to bottom, and how wide they are.
type grid struct {
	columns []column
	cells   [][]string
	widths  []int
}

func newGrid(rows []PeerStats) *grid {
	g := &grid{}
	for _, c := range columns {
		cells := []string{c.group, c.name}
		empty := true
		for i := range rows {
			cell := c.cell(&rows[i])
			empty = empty && cell == ""
			cells = append(cells, cell)
		}
		if empty && c.name == "endpoint" {
			continue
		}
		g.columns = append(g.columns, c)
		g.cells = append(g.cells, cells)
		g.widths = append(g.widths, widest(cells[1:]))
	}
	g.fitGroups()
	return g
}

// fitGroups widens the last column of a group that is narrower than its name.
func (g *grid) fitGroups() {
	for i := 0; i < len(g.columns); {
		end := i + 1
		for end < len(g.columns) && g.columns[i].group != "" && g.columns[end].group == "" {
			end++
		}
		if lacking := utf8.RuneCountInString(g.columns[i].group) - g.span(i, end); lacking > 0 {
			g.widths[end-1] += lacking
		}
		i = end
	}
}

// gap is the space between two columns.
const gap = 2

// span is the width of columns i to end-1.
func (g *grid) span(i, end int) int {
	width := (end - i - 1) * gap
	for ; i < end; i++ {
		width += g.widths[i]
	}
	return width
}

func widest(cells []string) int {
	width := 0
	for _, c := range cells {
		width = max(width, utf8.RuneCountInString(c))
	}
	return width
}

// line is one of the table's, without spaces at its end.
func (g *grid) line(at int) string {
	if at == 0 {
		return g.groups()
	}
	var b strings.Builder
	for i, c := range g.columns {
		cell := g.cells[i][at]
		space := strings.Repeat(" ", g.widths[i]-utf8.RuneCountInString(cell))
		if c.text {
			b.WriteString(cell + space)
		} else {
			b.WriteString(space + cell)
		}
		b.WriteString(strings.Repeat(" ", gap))
	}
	return strings.TrimRight(b.String(), " ")
}

// groups is the line of the groups' names, each at the left of its columns.
func (g *grid) groups() string {
	line, at := "", 0
	for i, c := range g.columns {
		if c.group != "" {
			line += strings.Repeat(" ", max(0, at-utf8.RuneCountInString(line))) + c.group
		}
		at += g.widths[i] + gap
	}
	return line
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// size is a number of bytes with three digits and a unit of powers of 1024.
func size(n uint64) string {
	value, unit := float64(n), 0
	for units := len(sizes1024); value >= 1000 && unit < units-1; unit++ {
		value /= 1024
	}
	if unit == 0 {
		return number(n) + " B"
	}
	return digits(value) + " " + sizes1024[unit]
}

var sizes1024 = []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}

// span is a duration with three digits and one unit.
func span(d time.Duration) string {
	for _, u := range []struct {
		name string
		long time.Duration
	}{{"s", time.Second}, {"ms", time.Millisecond}, {"µs", time.Microsecond}} {
		if d >= u.long {
			return digits(float64(d)/float64(u.long)) + " " + u.name
		}
	}
	if d == 0 {
		return "0 s"
	}
	return fmt.Sprintf("%d ns", d.Nanoseconds())
}

// digits writes three, more only of what needs them.
func digits(v float64) string {
	switch {
	case v < 9.995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 99.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// natural orders names as people count: "expert-2" before "expert-10".
func natural(a, b string) int {
	for a != "" && b != "" {
		x, y := digitsOf(a), digitsOf(b)
		if x == "" || y == "" {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		p, q := strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if c := cmp.Or(cmp.Compare(len(p), len(q)), cmp.Compare(p, q), cmp.Compare(len(x), len(y))); c != 0 {
			return c
		}
		a, b = a[len(x):], b[len(y):]
	}
	return cmp.Compare(len(a), len(b))
}

// digitsOf are those that a text begins with.
func digitsOf(s string) string {
	return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))]
}
