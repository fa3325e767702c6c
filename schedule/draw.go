package schedule

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// windowRows and windowColumns bound the piece of the grid that an error shows,
// on each side of the marked cell.
const (
	windowRows    = 3
	windowColumns = 4
)

// Grid prints the lists side by side: one row an index, one column a rank.
func (s *Schedule) Grid() string {
	return s.grid(box{0, s.longest(), 0, len(s.Ranks)}, nil)
}

func (s *Schedule) longest() int {
	n := 0
	for _, r := range s.Ranks {
		n = max(n, len(r.Actions))
	}
	return n
}

// window prints the grid around the first cell, with all cells marked.
func (s *Schedule) window(marked []Cell) string {
	c := marked[0]
	b := box{c.Index, c.Index + 1, c.Rank - windowColumns, c.Rank + windowColumns + 1}
	for _, m := range marked {
		if m.Rank >= b.left && m.Rank < b.right {
			b.top, b.bottom = min(b.top, m.Index), max(b.bottom, m.Index+1)
		}
	}
	b.bottom = min(b.bottom, b.top+8*windowRows)
	b.bottom = max(b.bottom, min(b.bottom+windowRows, s.longest()))
	b.top = max(b.top-windowRows, 0)
	b.left, b.right = max(b.left, 0), min(b.right, len(s.Ranks))
	return s.grid(b, marked)
}

// box is a piece of the grid: rows top to bottom, columns left to right.
type box struct{ top, bottom, left, right int }

func (s *Schedule) grid(b box, marked []Cell) string {
	lines := [][]string{{""}}
	for _, r := range s.Ranks[b.left:b.right] {
		lines[0] = append(lines[0], r.Name)
	}
	for i := b.top; i < b.bottom; i++ {
		line := []string{fmt.Sprint(i)}
		for r := b.left; r < b.right; r++ {
			line = append(line, s.cell(Cell{r, i}, marked))
		}
		lines = append(lines, line)
	}
	return table(lines)
}

func (s *Schedule) cell(c Cell, marked []Cell) string {
	word := ""
	if list := s.Ranks[c.Rank].Actions; c.Index < len(list) {
		word = list[c.Index].String()
	}
	if slices.Contains(marked, c) {
		return "[" + word + "]"
	}
	return " " + word
}

// table aligns columns, without blanks at a line's end.
func table(lines [][]string) string {
	var b strings.Builder
	for _, line := range lines {
		text := ""
		for c, word := range line {
			width := 0
			for _, l := range lines {
				width = max(width, len(l[c]))
			}
			text += fmt.Sprintf("%-*s ", width, word)
		}
		b.WriteString(strings.TrimRight(text, " ") + "\n")
	}
	return b.String()
}

// Draw writes the timeline as text: a line for each rank, time to the right,
// width characters for the makespan. An action is as wide as it is long; one
// that is too narrow for its word shows as much of it as fits.
//
//	A0 |A0F0|A0F1|A1F0|A1F1|       bubble  12 %
//	E0      |E0F0|E0F1|E1F0|E1F1|  bubble  12 %
func (t *Timeline) Draw(w io.Writer, width int) error {
	name := 0
	for _, r := range t.Ranks {
		name = max(name, len(r.Name))
	}
	for _, r := range t.Ranks {
		_, err := fmt.Fprintf(w, "%-*s %s bubble %3.0f %%\n", name, r.Name, t.bar(r.Spans, width), 100*r.Bubble)
		if err != nil {
			return fmt.Errorf("drawing timeline %s: %w", t.Name, err)
		}
	}
	return nil
}

// bar draws the spans of one rank. Each begins with a bar in its first column;
// the end of one that is followed by a pause has a bar too.
func (t *Timeline) bar(spans []Span, width int) string {
	line := []byte(strings.Repeat(" ", width+1))
	column := func(d time.Duration) int { return int(int64(d) * int64(width) / max(int64(t.Makespan), 1)) }
	for _, s := range spans {
		from, to := column(s.Start), column(s.End)
		line[from], line[to] = '|', '|'
		if from+1 < to {
			copy(line[from+1:to], s.Action.String())
		}
	}
	return string(line)
}

// traceEvent is one entry of Chrome's trace event format: times in
// microseconds, "X" a complete event, "M" metadata.
type traceEvent struct {
	Name  string            `json:"name"`
	Phase string            `json:"ph"`
	Cat   string            `json:"cat,omitempty"`
	TS    float64           `json:"ts"`
	Dur   float64           `json:"dur,omitempty"`
	PID   int               `json:"pid"`
	TID   int               `json:"tid"`
	Args  map[string]string `json:"args,omitempty"`
}

// WriteChromeTrace writes the timeline as Chrome trace JSON, one thread a rank,
// for chrome://tracing or Perfetto.
func (t *Timeline) WriteChromeTrace(w io.Writer) error {
	events := []traceEvent{{Name: "process_name", Phase: "M", Args: map[string]string{"name": t.Name}}}
	for i, r := range t.Ranks {
		events = append(events, traceEvent{Name: "thread_name", Phase: "M", TID: i, Args: map[string]string{"name": r.Name}})
		for _, s := range r.Spans {
			events = append(events, traceEvent{
				Name: s.Action.String(), Phase: "X", Cat: s.Action.Part.String(), TID: i,
				TS: micros(s.Start), Dur: micros(s.End - s.Start),
			})
		}
	}
	err := json.NewEncoder(w).Encode(map[string]any{"traceEvents": events})
	if err != nil {
		return fmt.Errorf("writing the trace of %s: %w", t.Name, err)
	}
	return nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
