package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/tandem-moe/tandem/internal/bounded"
	"github.com/tandem-moe/tandem/schedule"
)

// ScheduleCmd makes, reads and shows schedules.
type ScheduleCmd struct {
	Print    SchedulePrintCmd    `cmd:"" help:"Print a schedule: as text that the other commands read, as a grid, or the transfers that follow from it."`
	Draw     ScheduleDrawCmd     `cmd:"" help:"Draw what each rank does when, as text or as a Chrome trace."`
	Validate ScheduleValidateCmd `cmd:"" help:"Prove that a schedule runs to its end; fail, and show where, if it does not."`
	DryRun   ScheduleDryRunCmd   `cmd:"" help:"Compute how long a schedule takes, and what each rank waits and keeps."`
}

// Help tells how schedules are written.
func (*ScheduleCmd) Help() string {
	return fmt.Sprintf(`A schedule is a list of actions for each rank. An action is one word: A3F2 is
attention of layer 3, forward, micro-batch 2, and 17:A3F2 the same in step 17.
Parts: %s.
Directions: %s.

    tandem schedule draw --micro-batches 3
    tandem schedule print --attention 2 --experts 2 --layers 4 --dense 0
    tandem schedule dry-run --layers 32 --time-experts 2ms --time-transfer 300us`,
		glossary(schedule.Parts()), glossary(schedule.Directions()))
}

// glossary lists letters and their names.
func glossary(letters []schedule.Letter) string {
	var list []string
	for _, l := range letters {
		list = append(list, fmt.Sprintf("%c %s", l.Byte, l.Name))
	}
	return strings.Join(list, ", ")
}

// scheduleFlags name a schedule: a file, or the shape of one that is made.
type scheduleFlags struct {
	File         string      `arg:"" optional:"" help:"File with a schedule, as \"tandem schedule print\" writes it; - is standard input. Default: one is made from the flags."`
	Kind         string      `help:"Kind of the schedule that is made: pingpong, that of serving. Default: pingpong." enum:",pingpong" default:"" placeholder:"KIND"`
	Attention    count       `help:"Attention ranks. Default: 1." placeholder:"N"`
	Experts      count       `help:"Expert ranks. Default: 1, or none where no layer has experts." placeholder:"N"`
	Layers       count       `help:"Layers of the model. Default: 4." placeholder:"N"`
	Dense        []layerSpan `help:"Layers that have no experts, such as 0 or 0-2,7." placeholder:"LAYERS"`
	MicroBatches count       `help:"Micro-batches of a step. Default: 2." placeholder:"N"`
	Steps        count       `help:"Steps: how often the model is run. Default: 1." placeholder:"N"`
}

// Validate refuses flags beside a file, which has all that they say. Kong calls
// it.
func (f *scheduleFlags) Validate() error {
	if f.File == "" {
		return nil
	}
	for _, flag := range []struct {
		name  string
		given bool
	}{
		{"--kind", f.Kind != ""}, {"--attention", f.Attention > 0}, {"--experts", f.Experts > 0},
		{"--layers", f.Layers > 0},
		{"--dense", len(f.Dense) > 0}, {"--micro-batches", f.MicroBatches > 0}, {"--steps", f.Steps > 0},
	} {
		if flag.given {
			return fmt.Errorf("%s is for a schedule that is made, and %s is one: leave one of them out", flag.name, f.File)
		}
	}
	return nil
}

// valid opens the schedule and proves it.
func (f *scheduleFlags) valid() (*schedule.Schedule, error) {
	s, err := f.open()
	if err != nil {
		return nil, err
	}
	if err := s.Validate(); err != nil && f.File != "" {
		return nil, fmt.Errorf("%s: %w", shownName(f.File), err)
	} else if err != nil {
		return nil, err
	}
	return s, nil
}

// open reads the schedule or makes it.
func (f *scheduleFlags) open() (*schedule.Schedule, error) {
	if f.File != "" {
		return readSchedule(f.File)
	}
	layers := f.Layers.or(4)
	if layers > schedule.MaxLayers {
		return nil, fmt.Errorf("--layers %d: at most %d", layers, schedule.MaxLayers)
	}
	for _, d := range f.Dense {
		if d.last >= layers {
			return nil, fmt.Errorf("--dense %v: the model has %d layers, from 0 to %d", d, layers, layers-1)
		}
	}
	return schedule.PingPong(schedule.Serving{
		Attention: f.Attention.or(1), Experts: f.Experts.or(f.expertsOf(layers)), Layers: layers, Sparse: f.sparse,
		MicroBatches: f.MicroBatches.or(2), Steps: f.Steps.or(1),
	})
}

// shownName is how errors name a file.
func shownName(file string) string {
	if file == "-" {
		return "standard input"
	}
	return file
}

// expertsOf is how many expert ranks a model needs: one, if a layer has experts.
func (f *scheduleFlags) expertsOf(layers int) int {
	for l := range layers {
		if f.sparse(l) {
			return 1
		}
	}
	return 0
}

// sparse reports whether a layer has experts.
func (f *scheduleFlags) sparse(layer int) bool {
	for _, d := range f.Dense {
		if layer >= d.first && layer <= d.last {
			return false
		}
	}
	return true
}

// layerSpan is layers that follow each other, such as 3 or 0-2.
type layerSpan struct{ first, last int }

// UnmarshalText reads one.
func (s *layerSpan) UnmarshalText(text []byte) error {
	first, last, ranged := strings.Cut(string(text), "-")
	if !ranged {
		last = first
	}
	a, err := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	if err != nil || err2 != nil || a > b {
		return fmt.Errorf("%q: want layers, such as 0 or 0-2", text)
	}
	s.first, s.last = int(a), int(b)
	return nil
}

// String writes it as it is read.
func (s layerSpan) String() string {
	if s.first == s.last {
		return strconv.Itoa(s.first)
	}
	return fmt.Sprintf("%d-%d", s.first, s.last)
}

// maxScheduleText bounds the file of a schedule in bytes: as many actions as a
// schedule may have, at 16 bytes each.
const maxScheduleText = 16 * schedule.MaxActions

// readSchedule reads a file, or standard input.
func readSchedule(name string) (*schedule.Schedule, error) {
	file := os.Stdin
	if name != "-" {
		var err error
		if file, err = os.Open(name); err != nil {
			return nil, fmt.Errorf("reading a schedule: %w", err)
		}
		defer file.Close()
	}
	text, err := bounded.Read(file, maxScheduleText)
	var long *bounded.TooLong
	switch {
	case errors.As(err, &long):
		return nil, fmt.Errorf("reading a schedule: %s %w", shownName(name), err)
	case err != nil:
		return nil, fmt.Errorf("reading a schedule: %w", err)
	}
	s, err := schedule.Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shownName(name), err)
	}
	return s, nil
}

// SchedulePrintCmd prints a schedule.
type SchedulePrintCmd struct {
	scheduleFlags
	As string `help:"What to print: text, that the other commands read; grid, a column for each rank; or transfers, what each rank sends to which." enum:"text,grid,transfers" default:"text"`
}

// Run prints it. Only transfers ask for a schedule that is valid.
func (c *SchedulePrintCmd) Run() error {
	open := c.open
	if c.As == "transfers" {
		open = c.valid
	}
	s, err := open()
	if err != nil {
		return err
	}
	switch c.As {
	case "grid":
		return s.WriteGrid(os.Stdout)
	case "transfers":
		return printTransfers(os.Stdout, s)
	}
	_, err = io.WriteString(os.Stdout, s.String())
	return err
}
