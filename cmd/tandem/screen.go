package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"
	pretty "github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// screen is standard error: the log, and what people see beside it. Where programs
// read the log as JSON, every line is JSON, and what is for people alone becomes
// lines of the log or is left out.
type screen struct {
	log  *slog.Logger
	json bool
	w    *os.File
}

// newScreen logs to a file from a level on.
func newScreen(w *os.File, level slog.Level, json bool) *screen {
	o := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(w, o)
	if json {
		o.ReplaceAttr = withUnits
		handler = slog.NewJSONHandler(w, o)
	}
	return &screen{slog.New(handler), json, w}
}

// withUnits writes durations as the text form does, "100ms" and not 100000000.
func withUnits(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// logsJSON says whether a command line that cannot be parsed asks for JSON.
func logsJSON(args []string) bool {
	return slices.Contains(args, "--log-json") || slices.Contains(args, "--log-json=true")
}

// fail tells why the program ends, and what to try where that is known. It is told
// whatever the level of the log.
func (s *screen) fail(err error, try string) {
	if s.json {
		more := []any{"error", err.Error()}
		if try != "" {
			more = append(more, "try", try)
		}
		slog.New(slog.NewJSONHandler(s.w, nil)).Error("the program failed", more...)
		return
	}
	fmt.Fprintf(printable{s.w}, "tandem: %v\n", err) // it may repeat what a server said
	if try != "" {
		fmt.Fprintf(s.w, "Try: %s\n", try)
	}
}

// cache tells how large the KV cache is, and why.
func (s *screen) cache(tokens int, from string) {
	if s.json {
		s.log.Info("KV cache", "tokens", tokens, "from", from)
		return
	}
	fmt.Fprintf(s.w, "KV cache: %d tokens (%s)\n", tokens, from)
}

// progress is a bar, on a terminal and nowhere else.
func (s *screen) progress(what string) *progress {
	p := &progress{what: what}
	if !s.json && term.IsTerminal(int(s.w.Fd())) {
		p.w = s.w
	}
	return p
}

// nodes shows the nodes that serve, a row each.
func (s *screen) nodes(header table.Row, rows []table.Row) {
	if !s.json {
		printTable(s.w, width(s.w), header, rows)
		return
	}
	for _, row := range rows {
		var attrs []any
		for i, cell := range row {
			attrs = append(attrs, fmt.Sprint(header[i]), fmt.Sprint(cell))
		}
		s.log.Info("node", attrs...)
	}
}

// width is that of a terminal in columns; 0 where a file is none.
func width(f *os.File) int {
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

// printTable draws a table that is no wider than the columns; 0: as wide as it
// likes.
func printTable(w io.Writer, columns int, header table.Row, rows []table.Row) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(header)
	t.AppendRows(rows)
	if columns > 0 {
		t.SetColumnConfigs(fit(columns, append([]table.Row{header}, rows...)))
	}
	t.Render()
}

// narrowest is the width below which a column is not squeezed.
const narrowest = 8

// fit squeezes the widest columns of a table, one character at a time, until its
// rows fit: what is too long for its cell continues below.
func fit(columns int, rows []table.Row) []table.ColumnConfig {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], pretty.StringWidth(fmt.Sprint(cell)))
		}
	}
	room := columns - 1 // lines: one on the left, and a cell has one and two blanks
	for i := range widths {
		room -= widths[i] + 3
	}
	for ; room < 0; room++ {
		widest := slices.Index(widths, slices.Max(widths))
		if widths[widest] <= narrowest {
			break
		}
		widths[widest]--
	}
	configs := make([]table.ColumnConfig, len(widths))
	for i, w := range widths {
		configs[i] = table.ColumnConfig{Number: i + 1, WidthMax: w, WidthMaxEnforcer: pretty.WrapSoft}
	}
	return configs
}
