package gather

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the traces in testdata; commit the changes only if you understand them")

// TestInteraction runs the scripts in testdata. A script is a list of commands,
// each followed by what it printed, set off by "> ". A command may begin with
// the time, which stays until the next one: "@2ms arrive A0 1:E3F0 8".
func TestInteraction(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			got := replay(t, string(text))
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
				return
			}
			if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("%s (- want, + got; rewrite with -update):\n%s", file, diff)
			}
		})
	}
}

// replay runs a script's commands and prints it again with their output.
func replay(t *testing.T, script string) string {
	var out strings.Builder
	in := &interaction{}
	for _, line := range strings.Split(strings.TrimRight(script, "\n"), "\n") {
		if strings.HasPrefix(line, "> ") {
			continue
		}
		out.WriteString(line + "\n")
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		for _, l := range strings.Split(strings.TrimRight(in.command(t, words), "\n"), "\n") {
			out.WriteString("> " + l + "\n")
		}
	}
	return out.String()
}

// interaction is a gather under a script.
type interaction struct {
	g   *Gather
	now time.Duration
}

// verbs are a script's commands; each has its form beside it.
var verbs = map[string]func(in *interaction, t *testing.T, args []string) (fmt.Stringer, error){
	"new":      (*interaction).new,      // new layers=0,1,2 linger=1ms max-rows=100
	"join":     (*interaction).join,     // join A0 A1
	"busy":     (*interaction).busy,     // busy A0 101: micro-batches 0 and 2
	"idle":     (*interaction).idle,     // idle A0
	"arrive":   (*interaction).arrive,   // arrive A0 17:E3F1 8: step 17, layer 3, micro-batch 1, 8 rows
	"done":     (*interaction).done,     // done
	"timer":    (*interaction).timer,    // timer
	"lost":     (*interaction).lost,     // lost A0
	"describe": (*interaction).describe, // describe
	"counters": (*interaction).counters, // counters
}

func (in *interaction) command(t *testing.T, words []string) string {
	if at, ok := strings.CutPrefix(words[0], "@"); ok {
		in.now = duration(t, at)
		words = words[1:]
	}
	verb := verbs[words[0]]
	require.NotNil(t, verb, "verb %q", words[0])
	out, err := verb(in, t, words[1:])
	if err != nil {
		return "error: " + err.Error()
	}
	return out.String()
}

func duration(t *testing.T, text string) time.Duration {
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

func integer(t *testing.T, text string, base int) int {
	n, err := strconv.ParseInt(text, base, 64)
	require.NoError(t, err)
	return int(n)
}

type text string

func (s text) String() string { return string(s) }

func (in *interaction) new(t *testing.T, args []string) (fmt.Stringer, error) {
	var cfg Config
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "layers":
			for _, l := range strings.Split(value, ",") {
				cfg.Layers = append(cfg.Layers, integer(t, l, 10))
			}
		case "linger":
			cfg.Linger = duration(t, value)
		case "max-rows":
			cfg.MaxRows = integer(t, value, 10)
		default:
			t.Fatalf("new: %q", arg)
		}
	}
	var err error
	in.g, err = New(cfg)
	return text("ok"), err
}

func (in *interaction) join(_ *testing.T, names []string) (fmt.Stringer, error) {
	for _, name := range names {
		if err := in.g.Joined(name); err != nil {
			return nil, err
		}
	}
	return text("ok"), nil
}

func (in *interaction) busy(t *testing.T, args []string) (fmt.Stringer, error) {
	set := uint64(0)
	for i, c := range args[1] {
		if c == '1' {
			set |= 1 << i
		}
	}
	return in.g.Busy(args[0], set, in.now)
}

func (in *interaction) idle(_ *testing.T, args []string) (fmt.Stringer, error) {
	return in.g.Busy(args[0], 0, in.now)
}

func (in *interaction) arrive(t *testing.T, args []string) (fmt.Stringer, error) {
	m := Message{Node: args[0], Rows: integer(t, args[2], 10)}
	_, err := fmt.Sscanf(args[1], "%d:E%dF%d", &m.Step, &m.Layer, &m.MicroBatch)
	require.NoError(t, err)
	return in.g.Arrive(m, in.now)
}

func (in *interaction) done(*testing.T, []string) (fmt.Stringer, error) {
	if in.g.running == nil {
		return text("nothing runs"), nil
	}
	return in.g.Done(in.now), nil
}

func (in *interaction) timer(*testing.T, []string) (fmt.Stringer, error) {
	return in.g.Timer(in.now), nil
}

func (in *interaction) lost(_ *testing.T, args []string) (fmt.Stringer, error) {
	return in.g.Lost(args[0], in.now), nil
}

func (in *interaction) describe(*testing.T, []string) (fmt.Stringer, error) {
	return text(in.g.Describe()), nil
}

func (in *interaction) counters(*testing.T, []string) (fmt.Stringer, error) {
	c := in.g.Counters()
	return text(fmt.Sprintf("%+v\naggregation %.2f", c, c.Aggregation())), nil
}
