package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/tandem-moe/tandem/schedule"
)

// printTransfers prints a line for each message between two ranks, by the ranks'
// names.
func printTransfers(w io.Writer, s *schedule.Schedule) error {
	transfers, err := s.Transfers()
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	for t := range transfers {
		if _, err := fmt.Fprintf(out, "%v of %s -> %v of %s\n", t.Producer, s.Ranks[t.From].Name, t.Consumer,
			s.Ranks[t.To].Name); err != nil {
			return err
		}
	}
	return out.Flush()
}

// ScheduleValidateCmd proves a schedule.
type ScheduleValidateCmd struct {
	scheduleFlags
}

// Run says that it is valid, or fails.
func (c *ScheduleValidateCmd) Run() error {
	s, err := c.valid()
	if err != nil {
		return err
	}
	actions := 0
	for _, r := range s.Ranks {
		actions += len(r.Actions)
	}
	_, err = fmt.Printf("valid: %s, %d ranks, %d actions\n", s.Name, len(s.Ranks), actions)
	return err
}

// timeFlags are how long actions take.
type timeFlags struct {
	TimeAttention duration `help:"Time of the attention part of a layer, for one micro-batch." default:"1ms"`
	TimeExperts   duration `help:"Time of the experts of a layer, for one micro-batch." default:"1ms"`
	TimeHead      duration `help:"Time of the head, for one micro-batch." default:"1ms"`
	TimeTransfer  duration `help:"Time from the end of an action to the arrival of its rows on another rank." default:"0s"`
}

// run dry-runs a valid schedule. Backward passes take their usual multiple of
// the forward ones.
func (f *timeFlags) run(s *schedule.Schedule) (*schedule.Timeline, error) {
	times := schedule.Times{Attention: time.Duration(f.TimeAttention), Experts: time.Duration(f.TimeExperts),
		Head: time.Duration(f.TimeHead)}
	return schedule.DryRun(s, s.Durations(times), time.Duration(f.TimeTransfer))
}

// ScheduleDrawCmd draws a schedule.
type ScheduleDrawCmd struct {
	scheduleFlags
	timeFlags
	Width  count  `help:"Columns of the drawing. Default: the terminal's, or 100 where there is none." placeholder:"COLUMNS"`
	Chrome string `help:"Write a Chrome trace, for ui.perfetto.dev or chrome://tracing, and draw nothing." placeholder:"FILE"`
}

// Run draws it.
func (c *ScheduleDrawCmd) Run() error {
	s, err := c.valid()
	if err != nil {
		return err
	}
	line, err := c.run(s)
	if err != nil {
		return err
	}
	if c.Chrome != "" {
		return writeTrace(c.Chrome, line)
	}
	columns := int(c.Width)
	if columns == 0 {
		columns = width(os.Stdout)
	}
	if columns == 0 {
		columns = 100
	}
	return line.Draw(os.Stdout, columns)
}

// writeTrace writes a timeline's trace to a file, and says so.
func writeTrace(name string, line *schedule.Timeline) error {
	file, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("writing a trace: %w", err)
	}
	if err := errors.Join(line.WriteChromeTrace(file), file.Close()); err != nil {
		return err
	}
	_, err = fmt.Printf("%s: %d ranks, %v; open it in ui.perfetto.dev or chrome://tracing\n", name, len(line.Ranks),
		line.Makespan)
	return err
}

// ScheduleDryRunCmd times a schedule.
type ScheduleDryRunCmd struct {
	scheduleFlags
	timeFlags
	JSON bool `help:"Print one JSON object." name:"json"`
}

// dryRun is what came of a dry-run. Times are in microseconds.
type dryRun struct {
	Schedule   string    `json:"schedule"`
	MakespanUS float64   `json:"makespan_us"`
	Transfers  int       `json:"transfers"`
	Ranks      []rankRun `json:"ranks"`
}

// rankRun is what came of one rank: Bubble is the share of the makespan that it
// waits, PeakLive the most micro-batches that it keeps at once.
type rankRun struct {
	Rank     string  `json:"rank"`
	Actions  int     `json:"actions"`
	BusyUS   float64 `json:"busy_us"`
	Bubble   float64 `json:"bubble"`
	PeakLive int     `json:"peak_live"`
}

// Run times it, and prints a table or JSON.
func (c *ScheduleDryRunCmd) Run() error {
	s, err := c.valid()
	if err != nil {
		return err
	}
	line, err := c.run(s)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(os.Stdout).Encode(summary(line, s.PeakLive()))
	}
	if _, err := fmt.Printf("%s: %v, %d transfers\n", line.Name, line.Makespan, line.Transfers); err != nil {
		return err
	}
	var rows []table.Row
	for i, live := range s.PeakLive() {
		r := &line.Ranks[i]
		rows = append(rows, table.Row{r.Name, len(r.Spans), r.Busy, fmt.Sprintf("%.1f %%", 100*r.Bubble), live})
	}
	printTable(os.Stdout, width(os.Stdout), table.Row{"rank", "actions", "busy", "bubble", "peak live"}, rows)
	return nil
}

// summary is a timeline in numbers.
func summary(line *schedule.Timeline, live []int) dryRun {
	micros := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	d := dryRun{Schedule: line.Name, MakespanUS: micros(line.Makespan), Transfers: line.Transfers}
	for i := range line.Ranks {
		r := &line.Ranks[i]
		d.Ranks = append(d.Ranks, rankRun{r.Name, len(r.Spans), micros(r.Busy), r.Bubble, live[i]})
	}
	return d
}
