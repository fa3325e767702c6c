package batch

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/serve/kvcache"
)

var update = flag.Bool("update", false, "regenerate testdata; commit the change only if you understand it")

// TestGoldenTraces runs the scripts of testdata. A line is a command, what it
// prints follows below "----".
func TestGoldenTraces(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, scripts)
	for _, path := range scripts {
		t.Run(filepath.Base(path), func(t *testing.T) {
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			got := runScript(t, string(want))
			if *update {
				require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
				return
			}
			require.Equal(t, string(want), got)
		})
	}
}

// runScript returns the script with what its commands print now. Lines between
// "----" and the next empty line are output.
func runScript(t *testing.T, script string) string {
	var out strings.Builder
	var d driver
	output := false
	for _, line := range strings.Split(strings.TrimRight(script, "\n"), "\n") {
		switch {
		case output:
			output = line != ""
		case line == "----":
			output = true
		case line == "" || strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
		default:
			fmt.Fprintf(&out, "%s\n----\n%s\n\n", line, d.run(t, newCommand(line)))
		}
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

// command is a verb, plain arguments, and name=value options.
type command struct {
	verb    string
	args    []int
	options map[string]string
}

func newCommand(line string) command {
	fields := strings.Fields(line)
	c := command{verb: fields[0], options: map[string]string{}}
	for _, f := range fields[1:] {
		name, value, _ := strings.Cut(f, "=")
		if n, err := strconv.Atoi(f); err == nil {
			c.args = append(c.args, n)
		} else {
			c.options[name] = value
		}
	}
	return c
}

func (c command) has(name string) bool { _, ok := c.options[name]; return ok }

func (c command) number(t *testing.T, name string, fallback int) int {
	if !c.has(name) {
		return fallback
	}
	n, err := strconv.Atoi(c.options[name])
	require.NoError(t, err, name)
	return n
}

// driver runs commands on a batcher.
type driver struct {
	b     *Batcher
	cache *kvcache.Cache
	steps map[int]*Step
}

func (d *driver) run(t *testing.T, c command) string {
	verbs := map[string]func(*testing.T, command) string{
		"new": d.new, "submit": d.submit, "cancel": d.cancel, "next": d.next,
		"done": d.done, "abort": d.abort, "repeat": d.repeat, "run": d.runAll, "state": d.state,
	}
	require.Contains(t, verbs, c.verb)
	out := verbs[c.verb](t, c)
	if d.cache != nil {
		require.NoError(t, d.cache.Check())
	}
	return out
}

// Example: new pages=8 page=4 mb=2 seqs=4 rows=16 chunk=8 waiting=10 len=100 preempt=0@2
func (d *driver) new(t *testing.T, c command) string {
	var err error
	d.cache, err = kvcache.New(kvcache.Identity{PageTokens: c.number(t, "page", 4)}, c.number(t, "pages", 8))
	require.NoError(t, err)
	config := Config{
		MicroBatches: c.number(t, "mb", 1), MaxNumSeqs: c.number(t, "seqs", 4),
		MaxBatchedTokens: c.number(t, "rows", 16), ChunkTokens: c.number(t, "chunk", 0),
		MaxWaiting: c.number(t, "waiting", 10), MaxModelLen: c.number(t, "len", 100),
		NoReuse: c.has("noreuse"),
	}
	if c.has("preempt") {
		var f Forced
		_, err := fmt.Sscanf(c.options["preempt"], "%d@%d", &f.Sequence, &f.Step)
		require.NoError(t, err)
		config.Preempt = []Forced{f}
	}
	d.steps = map[int]*Step{}
	if d.b, err = New(config, d.cache); err != nil {
		return err.Error()
	}
	return "ok"
}

// Example: submit 1 prompt=5 max=3 first=100 output=2 logprobs
//
// The prompt is first, first+1, …; by default first is 1000 times the id. So are
// the tokens that are drawn: 100 times the id, and the output position.
func (d *driver) submit(t *testing.T, c command) string {
	id := c.args[0]
	r := Request{ID: uint64(id), MaxTokens: c.number(t, "max", 1), PromptLogprobs: c.has("logprobs")}
	first := c.number(t, "first", 1000*id)
	for i := range c.number(t, "prompt", 1) {
		r.Prompt = append(r.Prompt, int32(first+i))
	}
	for i := range c.number(t, "output", 0) {
		r.Output = append(r.Output, int32(100*id+i))
	}
	if err := d.b.Submit(r); err != nil {
		return err.Error()
	}
	return "ok"
}

// Example: cancel 1
func (d *driver) cancel(t *testing.T, c command) string {
	return fmt.Sprint(d.b.Cancel(uint64(c.args[0])))
}

// Example: next 0
func (d *driver) next(t *testing.T, c command) string {
	if d.steps[c.args[0]] != nil {
		return "in a step"
	}
	step := d.b.Next(c.args[0])
	if step == nil {
		return "nothing"
	}
	d.steps[c.args[0]] = step
	return step.String()
}

// Example: done 0 stop=1
func (d *driver) done(t *testing.T, c command) string {
	step := d.steps[c.args[0]]
	if step == nil {
		return "no step"
	}
	delete(d.steps, c.args[0])
	var results []Result
	for _, r := range step.Seqs {
		stop := c.number(t, "stop", -1) == int(r.ID)
		results = append(results, Result{Token: int32(100*int(r.ID) + r.Output), Stop: stop})
	}
	var out []string
	for i, o := range d.b.Done(c.args[0], results) {
		out = append(out, fmt.Sprintf("seq %d: %v", step.Seqs[i].ID, o))
	}
	return strings.Join(out, "\n")
}

// Example: repeat 0 times=3
//
// Ends the step and takes the next one, so many times.
func (d *driver) repeat(t *testing.T, c command) string {
	var out string
	for range c.number(t, "times", 1) {
		d.done(t, c)
		out = d.next(t, c)
	}
	return out
}

// Example: abort 0
func (d *driver) abort(_ *testing.T, c command) string {
	d.b.Abort(c.args[0])
	delete(d.steps, c.args[0])
	return "ok"
}

// Example: run
//
// Steps every micro-batch in turn until none has anything to do.
func (d *driver) runAll(t *testing.T, c command) string {
	var out []string
	for idle := 0; idle < len(d.b.micro); {
		for mb := range d.b.micro {
			next := fmt.Sprint("next ", mb)
			idle++
			if d.steps[mb] != nil {
				out = append(out, fmt.Sprintf("done %d", mb), d.done(t, newCommand(fmt.Sprint("done ", mb))))
			}
			if s := d.next(t, newCommand(next)); s != "nothing" {
				out = append(out, next, s)
				idle = 0
			}
		}
		require.Less(t, len(out), 1000, "it does not end")
	}
	return strings.Join(append(out, "idle"), "\n")
}

// Example: state
func (d *driver) state(*testing.T, command) string {
	var out []string
	for i := range d.b.micro {
		out = append(out, fmt.Sprintf("micro-batch %d: %s", i, describe(d.b.micro[i].running)))
	}
	out = append(out, "waiting: "+describe(d.b.waiting))
	if d.b.short != nil {
		out = append(out, fmt.Sprintf("short of pages: seq %d", d.b.short.id))
	}
	return strings.Join(append(out, fmt.Sprintf("pages %+v", d.cache.Usage()), fmt.Sprintf("counters %+v", d.b.counters)), "\n")
}

func describe(list []*sequence) string {
	var out []string
	for _, s := range list {
		text := fmt.Sprintf("seq %d (%d of %d)", s.id, s.computed, len(s.tokens))
		if s.inFlight > 0 {
			text += fmt.Sprintf(" +%d", s.inFlight)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// TestScriptsUseEveryVerb keeps the list of verbs and the scripts together.
func TestScriptsUseEveryVerb(t *testing.T) {
	used := map[string]bool{}
	scripts, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	require.NoError(t, err)
	for _, path := range scripts {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, line := range strings.Split(string(text), "\n") {
			used[strings.Fields(line + " -")[0]] = true
		}
	}
	for _, verb := range slices.Sorted(slices.Values([]string{"new", "submit", "cancel", "next", "done", "abort", "repeat", "run", "state"})) {
		require.True(t, used[verb], verb)
	}
}
