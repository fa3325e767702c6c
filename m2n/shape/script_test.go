package shape

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite the traces in testdata; commit the changes only if you understand them")

// TestScripts runs the scripts in testdata. A script is a list of commands; what
// happens until the time of a run is printed below it, set off by "> ".
func TestScripts(t *testing.T) {
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

// replay runs a script's commands and prints it again with what happened.
func replay(t *testing.T, script string) string {
	s := &scripted{t: t, hosts: map[string]*host{}, flows: map[string]*flow{}, reads: map[*flow]bool{}}
	for _, line := range strings.Split(strings.TrimRight(script, "\n"), "\n") {
		if strings.HasPrefix(line, "> ") {
			continue
		}
		s.out.WriteString(line + "\n")
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		verb := verbs[words[0]]
		require.NotNil(t, verb, "verb %q", words[0])
		verb(s, words[1:])
	}
	return s.out.String()
}

// scripted is a model under a script.
type scripted struct {
	t     *testing.T
	m     *model
	hosts map[string]*host
	flows map[string]*flow
	reads map[*flow]bool // whose bytes are read as they arrive
	out   strings.Builder
}

// verbs are a script's commands; each has its form beside it.
var verbs = map[string]func(s *scripted, args []string){
	"new":     (*scripted).new,                                                                       // new latency=1ms packet=100 queue=1000 window=1000
	"host":    (*scripted).host,                                                                      // host a egress=1000 ingress=1000: bytes per second
	"flow":    (*scripted).flow,                                                                      // flow f a b reads
	"write":   func(s *scripted, args []string) { s.m.write(s.flows[args[0]], s.number(args[1])) },   // write f 100
	"read":    func(s *scripted, args []string) { s.m.read(s.flows[args[0]], s.number(args[1])) },    // read f 100
	"finish":  func(s *scripted, args []string) { s.m.finish(s.flows[args[0]]) },                     // finish f
	"abandon": func(s *scripted, args []string) { s.m.abandon(s.flows[args[0]]) },                    // abandon f
	"signal":  func(s *scripted, args []string) { s.m.signal(s.path(args), args[2], len(args) > 3) }, // signal a b hello keep
	"latency": func(s *scripted, args []string) { s.path(args).latency = s.duration(args[2]) },       // latency a b 1ms
	"cut":     func(s *scripted, args []string) { s.hosts[args[0]].cut = true },                      // cut a
	"stall":   func(s *scripted, args []string) { s.path(args).stalled = true },                      // stall a b
	"heal":    func(s *scripted, args []string) { s.m.heal(s.hosts[args[0]]) },                       // heal a
	"run":     func(s *scripted, args []string) { s.run(s.duration(args[0])) },                       // run 1s: until then
	"show":    func(s *scripted, args []string) { s.show() },                                         // show
}

func (s *scripted) number(text string) int {
	n, err := strconv.Atoi(text)
	require.NoError(s.t, err)
	return n
}

func (s *scripted) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	require.NoError(s.t, err)
	return d
}

func (s *scripted) path(args []string) *path {
	return s.m.path(s.hosts[args[0]], s.hosts[args[1]])
}

func (s *scripted) new(args []string) {
	var cfg Config
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		switch key {
		case "latency":
			cfg.Latency = s.duration(value)
		case "packet":
			cfg.Packet = s.number(value)
		case "queue":
			cfg.Queue = s.number(value)
		case "window":
			cfg.Window = s.number(value)
		default:
			s.t.Fatalf("key %q", key)
		}
	}
	cfg, err := cfg.complete()
	require.NoError(s.t, err)
	s.m = newModel(cfg)
}

func (s *scripted) host(args []string) {
	h := s.m.host(args[0])
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		way := map[string]*nic{"egress": &h.egress, "ingress": &h.ingress}[key]
		require.NotNil(s.t, way, "key %q", key)
		way.rate = int64(s.number(value))
	}
	s.hosts[args[0]] = h
}

func (s *scripted) flow(args []string) {
	f := s.m.flow(s.path(args[1:]), args[0])
	s.flows[args[0]] = f
	s.reads[f] = slices.Contains(args, "reads")
}

// run lets time pass, and prints what happens.
func (s *scripted) run(until time.Duration) {
	for due, ok := s.m.next(); ok && due <= until; due, ok = s.m.next() {
		for _, a := range slices.Clone(s.m.advance(due)) {
			s.print(a)
			if a.kind == arrived && s.reads[a.flow] {
				s.m.read(a.flow, a.bytes)
			}
		}
	}
	s.m.advance(until)
}

func (s *scripted) print(a action) {
	fmt.Fprintf(&s.out, "> %v ", s.m.now)
	switch a.kind {
	case left:
		fmt.Fprintf(&s.out, "%v: %d left\n", a.flow.user, a.bytes)
	case arrived:
		fmt.Fprintf(&s.out, "%v: %d arrived\n", a.flow.user, a.bytes)
	case finished:
		fmt.Fprintf(&s.out, "%v: finished\n", a.flow.user)
	case signalled:
		fmt.Fprintf(&s.out, "signal %v\n", a.signal)
	}
}

// show prints what waits where.
func (s *scripted) show() {
	for _, p := range s.m.paths {
		for _, f := range p.flows {
			place := []string{nowhere: "nowhere", asking: "asking for room", ready: "ready or sending"}[f.place]
			fmt.Fprintf(&s.out, "> %v: %d pending, %d unread, %s\n", f.user, f.pending, f.unread, place)
		}
	}
}
