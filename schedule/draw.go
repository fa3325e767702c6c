package schedule

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/bits"
	"strings"
	"time"
)

// narrowest is the least number of columns that a bar has.
const narrowest = 10

// widest bounds the columns of a drawing.
const widest = 1 << 16

// Draw writes the timeline as text: a line for each rank, time to the right. The
// lines fit the given number of columns, unless that leaves a bar less than
// `narrowest`. An action is as wide as it is long; one that is too narrow for its
// word leaves out the step, and then shows as much as fits.
//
//	A0 |A0F0|A0F1|A1F0|A1F1|      bubble  20 %
//	E0      |E0F0|E0F1|E1F0|E1F1| bubble  20 %
//	   0                      5ms
func (t *Timeline) Draw(w io.Writer, columns int) error {
	name := 0
	for _, r := range t.Ranks {
		name = max(name, len(r.Name))
	}
	width := max(min(columns, widest)-name-len("  | bubble 100 %"), narrowest)
	out := bufio.NewWriter(w)
	for _, r := range t.Ranks {
		fmt.Fprintf(out, "%-*s %s bubble %3.0f %%\n", name, r.Name, t.bar(r.Spans, width), 100*r.Bubble)
	}
	end := t.Makespan.String()
	fmt.Fprintf(out, "%-*s 0%*s\n", name, "", max(width, len(end)+1), end)
	if err := out.Flush(); err != nil {
		return fmt.Errorf("drawing timeline %s: %w", t.Name, err)
	}
	return nil
}

// bar draws the spans of one rank on width+1 columns. Each begins with a stroke
// in its first column; the end of one that a pause follows has a stroke too.
func (t *Timeline) bar(spans []Span, width int) string {
	line := []byte(strings.Repeat(" ", width+1))
	for _, s := range spans {
		from, to := t.column(s.Start, width), t.column(s.End, width)
		line[from], line[to] = '|', '|'
		if from+1 < to {
			copy(line[from+1:to], label(s.Action, to-from-1))
		}
	}
	return string(line)
}

// label is the word of an action, without its step where that would not fit.
func label(a Action, room int) string {
	if word := a.String(); len(word) <= room {
		return word
	}
	return a.At(0).String()
}

// column is where a time of the timeline lies on a line: at · width / makespan,
// rounded down. The product may take 128 bits.
func (t *Timeline) column(at time.Duration, width int) int {
	high, low := bits.Mul64(uint64(at), uint64(width))
	column, _ := bits.Div64(high, low, uint64(max(t.Makespan, 1)))
	return int(column)
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
// for chrome://tracing or Perfetto. An action's categories are those of its part
// and of its direction.
func (t *Timeline) WriteChromeTrace(w io.Writer) error {
	out := bufio.NewWriter(w)
	separator := "{\"traceEvents\":[\n"
	event := func(e traceEvent) error {
		text, err := json.Marshal(e)
		if err == nil {
			_, err = out.WriteString(separator + string(text))
		}
		separator = ",\n"
		return err
	}
	err := t.events(event)
	if err == nil {
		_, err = out.WriteString("\n]}\n")
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return fmt.Errorf("writing the trace of %s: %w", t.Name, err)
	}
	return nil
}

// events calls f with each event, until it fails.
func (t *Timeline) events(f func(traceEvent) error) error {
	if err := f(traceEvent{Name: "process_name", Phase: "M", Args: map[string]string{"name": t.Name}}); err != nil {
		return err
	}
	for i, r := range t.Ranks {
		if err := f(traceEvent{Name: "thread_name", Phase: "M", TID: i,
			Args: map[string]string{"name": r.Name}}); err != nil {
			return err
		}
		for _, s := range r.Spans {
			err := f(traceEvent{
				Name: s.Action.String(), Phase: "X", TID: i, TS: micros(s.Start), Dur: micros(s.End - s.Start),
				Cat: category(parts, byte(s.Action.Part)) + "," + category(directions, byte(s.Action.Direction)),
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
