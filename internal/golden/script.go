package golden

import (
	"flag"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// Command is a line of a script. datadriven documents its methods: ScanArgs and
// MaybeScanArgs read an argument, Fatalf names the script's file and line.
type Command struct {
	datadriven.TestData
	// Now is the script's time. A command may begin with it, and it stays until
	// the next one: "@2ms arrive 8".
	Now time.Duration
}

// Verbs are what a script may say. Each returns what it prints.
type Verbs map[string]func(t *testing.T, c *Command) string

// Scripts runs each script of testdata (*.txt) in a subtest, by verbs that begin
// made for it alone. It fails where a verb prints something else than the script
// says, and where no script uses a verb.
//
// A script is of the form of datadriven: commands, a line each; a line "----";
// what the commands print; an empty line. Lines that begin with "#" are remarks.
//
//	submit 1 prompt=5 max=3
//	@2ms next 0
//	----
//	step 1 of micro-batch 0, rows 5
func Scripts(t *testing.T, begin func() Verbs) {
	t.Helper()
	if *update {
		if err := flag.Set("rewrite", "true"); err != nil { // datadriven's own -update
			t.Fatal(err)
		}
	}
	paths, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("testdata has no scripts (*.txt): %v", err)
	}
	unused, ran := begin(), 0
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			ran++
			s := script{verbs: begin(), unused: unused}
			datadriven.RunTest(t, path, s.directive)
		})
	}
	if len(unused) > 0 && ran == len(paths) && !t.Failed() {
		t.Errorf("no script in testdata uses the verbs %q", slices.Sorted(maps.Keys(unused)))
	}
}

// script is one that runs.
type script struct {
	verbs  Verbs
	now    time.Duration
	unused Verbs
}

// directive runs the commands up to a line "----". The first is d itself, the
// others are d's input.
func (s *script) directive(t *testing.T, d *datadriven.TestData) string {
	var out strings.Builder
	s.command(t, &out, d)
	for line := range strings.Lines(d.Input) {
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		next := *d
		var err error
		if next.Cmd, next.CmdArgs, err = datadriven.ParseLine(line); err != nil {
			d.Fatalf(t, "%v", err)
		}
		s.command(t, &out, &next)
	}
	return out.String()
}

func (s *script) command(t *testing.T, out *strings.Builder, d *datadriven.TestData) {
	c := &Command{TestData: *d}
	c.Input, c.Expected = "", ""
	if err := s.readTime(c); err != nil {
		d.Fatalf(t, "%v", err)
	}
	verb, ok := s.verbs[c.Cmd]
	if !ok {
		d.Fatalf(t, "unknown verb %q, want one of %q", c.Cmd, slices.Sorted(maps.Keys(s.verbs)))
	}
	delete(s.unused, c.Cmd)
	if printed := verb(t, c); printed != "" {
		out.WriteString(strings.TrimSuffix(printed, "\n") + "\n")
	}
}

// readTime takes the time from the front of a command.
func (s *script) readTime(c *Command) (err error) {
	if at, ok := strings.CutPrefix(c.Cmd, "@"); ok {
		if s.now, err = time.ParseDuration(at); err != nil {
			return err
		}
		if len(c.CmdArgs) == 0 || len(c.CmdArgs[0].Vals) > 0 {
			return fmt.Errorf("no verb follows the time %s", c.Cmd)
		}
		c.Cmd, c.CmdArgs = c.CmdArgs[0].Key, c.CmdArgs[1:]
	}
	c.Now = s.now
	return nil
}

// Words are a command's arguments as they stand in the script, without those of
// the form name=value.
func (c *Command) Words() []string {
	var words []string
	for _, arg := range c.CmdArgs {
		if len(arg.Vals) == 0 {
			words = append(words, arg.Key)
		}
	}
	return words
}

// Word is the i-th of Words.
func (c *Command) Word(t *testing.T, i int) string {
	t.Helper()
	words := c.Words()
	if i >= len(words) {
		c.Fatalf(t, "%s: %d arguments, want more than %d", c.Cmd, len(words), i)
	}
	return words[i]
}

// Known fails where a command has an argument name=value of another name: a
// script's typing error must not be a default.
func (c *Command) Known(t *testing.T, names ...string) {
	t.Helper()
	for _, arg := range c.CmdArgs {
		if len(arg.Vals) > 0 && !slices.Contains(names, arg.Key) {
			c.Fatalf(t, "%s: unknown argument %s, want one of %q", c.Cmd, arg.Key, names)
		}
	}
}
