package batch

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/golden"
	"github.com/tandem-moe/tandem/serve/kvcache"
)

// TestGoldenTraces runs the scripts of testdata.
func TestGoldenTraces(t *testing.T) {
	golden.Scripts(t, func() golden.Verbs {
		d := &driver{}
		return golden.Verbs{
			"new": d.checked(d.new), "submit": d.checked(d.submit), "cancel": d.checked(d.cancel),
			"next": d.checked(d.next), "done": d.checked(d.done), "abort": d.checked(d.abort),
			"repeat": d.checked(d.repeat), "run": d.checked(d.runAll), "state": d.checked(d.state),
		}
	})
}

// driver runs a script's commands on a batcher.
type driver struct {
	b     *Batcher
	cache *kvcache.Cache
	steps map[int]*Step
}

// checked makes a verb that checks the cache's invariants afterwards.
func (d *driver) checked(verb func(*testing.T, *golden.Command) string) func(*testing.T, *golden.Command) string {
	return func(t *testing.T, c *golden.Command) string {
		out := verb(t, c)
		if d.cache != nil {
			require.NoError(t, d.cache.Check())
		}
		return out
	}
}

// number is a command's argument name=value, or the fallback.
func number(t *testing.T, c *golden.Command, name string, fallback int) int {
	c.MaybeScanArgs(t, name, &fallback)
	return fallback
}

// which returns a command's first argument: a micro-batch or a sequence.
func which(t *testing.T, c *golden.Command) int {
	n, err := strconv.Atoi(c.Word(t, 0))
	require.NoError(t, err)
	return n
}

// Example: new pages=8 page=4 mb=2 seqs=4 rows=16 chunk=8 waiting=10 len=100 preempt=0@2
func (d *driver) new(t *testing.T, c *golden.Command) string {
	c.Known(t, "pages", "page", "mb", "seqs", "rows", "chunk", "waiting", "len", "preempt")
	var err error
	d.cache, err = kvcache.New(kvcache.Identity{PageTokens: number(t, c, "page", 4)}, number(t, c, "pages", 8))
	require.NoError(t, err)
	config := Config{
		MicroBatches: number(t, c, "mb", 1), MaxNumSeqs: number(t, c, "seqs", 4),
		MaxBatchedTokens: number(t, c, "rows", 16), ChunkTokens: number(t, c, "chunk", 0),
		MaxWaiting: number(t, c, "waiting", 10), MaxModelLen: number(t, c, "len", 100),
		NoReuse: c.HasArg("noreuse"),
	}
	if preempt := ""; c.MaybeScanArgs(t, "preempt", &preempt) {
		var f Forced
		_, err := fmt.Sscanf(preempt, "%d@%d", &f.Sequence, &f.Step)
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
// The prompt's tokens are first, first+1, …; by default first is 1000 times the id.
// The tokens of output are 100 times the id plus their position in the output.
func (d *driver) submit(t *testing.T, c *golden.Command) string {
	c.Known(t, "prompt", "max", "first", "output")
	id := which(t, c)
	r := Request{ID: uint64(id), MaxTokens: number(t, c, "max", 1), PromptLogprobs: c.HasArg("logprobs")}
	first := number(t, c, "first", 1000*id)
	for i := range number(t, c, "prompt", 1) {
		r.Prompt = append(r.Prompt, int32(first+i))
	}
	for i := range number(t, c, "output", 0) {
		r.Output = append(r.Output, int32(100*id+i))
	}
	if err := d.b.Submit(r); err != nil {
		return err.Error()
	}
	return "ok"
}

// Example: cancel 1
func (d *driver) cancel(t *testing.T, c *golden.Command) string {
	return fmt.Sprint(d.b.Cancel(uint64(which(t, c))))
}

// Example: next 0
func (d *driver) next(t *testing.T, c *golden.Command) string { return d.nextStep(which(t, c)) }

func (d *driver) nextStep(mb int) string {
	if d.steps[mb] != nil {
		return "in a step"
	}
	step := d.b.Next(mb)
	if step == nil {
		return "nothing"
	}
	d.steps[mb] = step
	return step.String()
}

// Example: done 0 stop=1
func (d *driver) done(t *testing.T, c *golden.Command) string {
	return d.endStep(which(t, c), number(t, c, "stop", -1))
}

// endStep ends a step with a result for each sequence; sequence stop gets Stop.
func (d *driver) endStep(mb, stop int) string {
	step := d.steps[mb]
	if step == nil {
		return "no step"
	}
	delete(d.steps, mb)
	var results []Result
	for _, r := range step.Seqs {
		results = append(results, Result{Token: int32(100*int(r.ID) + r.Output), Stop: stop == int(r.ID)})
	}
	var out []string
	for i, o := range d.b.Done(mb, results) {
		out = append(out, fmt.Sprintf("seq %d: %v", step.Seqs[i].ID, o))
	}
	return strings.Join(out, "\n")
}

// Example: repeat 0 times=3
//
// Ends the step and begins the next one, the given number of times.
func (d *driver) repeat(t *testing.T, c *golden.Command) string {
	var out string
	for range number(t, c, "times", 1) {
		d.endStep(which(t, c), -1)
		out = d.nextStep(which(t, c))
	}
	return out
}

// Example: abort 0
func (d *driver) abort(t *testing.T, c *golden.Command) string {
	d.b.Abort(which(t, c))
	delete(d.steps, which(t, c))
	return "ok"
}

// Example: run
//
// Steps every micro-batch in turn until none has anything to do.
func (d *driver) runAll(t *testing.T, _ *golden.Command) string {
	var out []string
	for idle := 0; idle < len(d.b.micro); {
		for mb := range d.b.micro {
			idle++
			if d.steps[mb] != nil {
				out = append(out, fmt.Sprintf("done %d", mb), d.endStep(mb, -1))
			}
			if s := d.nextStep(mb); s != "nothing" {
				out = append(out, fmt.Sprint("next ", mb), s)
				idle = 0
			}
		}
		require.Less(t, len(out), 1000, "it does not end")
	}
	return strings.Join(append(out, "idle"), "\n")
}

// Example: state
func (d *driver) state(*testing.T, *golden.Command) string {
	var out []string
	for i := range d.b.micro {
		out = append(out, fmt.Sprintf("micro-batch %d: %s", i, describe(d.b.micro[i].running)))
	}
	out = append(out, "waiting: "+describe(d.b.waiting))
	if d.b.short != nil {
		out = append(out, fmt.Sprintf("short of pages: seq %d", d.b.short.id))
	}
	return strings.Join(append(out, fmt.Sprintf("pages %+v", d.cache.Usage()),
		fmt.Sprintf("counters %+v", d.b.counters)), "\n")
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
