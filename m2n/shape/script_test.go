package shape

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/golden"
)

// TestScripts runs the scripts in testdata. What happens until the time of a run
// is what the run prints.
func TestScripts(t *testing.T) {
	golden.Scripts(t, func() golden.Verbs {
		s := &scripted{hosts: map[string]*host{}, flows: map[string]*flow{}, reads: map[*flow]bool{}}
		return golden.Verbs{
			"new":     s.new,                                             // new latency=1ms packet=100 queue=1000 window=1000
			"host":    s.host,                                            // host a egress=1000 ingress=1000: bytes per second
			"flow":    s.flow,                                            // flow f a b reads
			"write":   s.bytes(func(f *flow, n int) { s.m.write(f, n) }), // write f 100
			"read":    s.bytes(func(f *flow, n int) { s.m.read(f, n) }),  // read f 100
			"finish":  s.bytes(func(f *flow, _ int) { s.m.finish(f) }),   // finish f
			"abandon": s.bytes(func(f *flow, _ int) { s.m.abandon(f) }),  // abandon f
			"signal":  s.signal,                                          // signal a b hello keep
			"latency": s.latency,                                         // latency a b 1ms
			"cut":     s.cut,                                             // cut a
			"stall":   s.stall,                                           // stall a b
			"heal":    s.heal,                                            // heal a
			"run":     s.run,                                             // run 1s: until then
			"show":    s.show,                                            // show
		}
	})
}

// scripted is a model under a script.
type scripted struct {
	m     *model
	hosts map[string]*host
	flows map[string]*flow
	reads map[*flow]bool // whose bytes are read as they arrive
}

// bytes is a verb about a flow, and some bytes where the script says how many.
func (s *scripted) bytes(f func(*flow, int)) func(*testing.T, *golden.Command) string {
	return func(t *testing.T, c *golden.Command) string {
		n := 0
		if len(c.Words()) > 1 {
			var err error
			n, err = strconv.Atoi(c.Word(t, 1))
			require.NoError(t, err)
		}
		f(s.flows[c.Word(t, 0)], n)
		return ""
	}
}

// path is the one between the two hosts that a command names first.
func (s *scripted) path(t *testing.T, c *golden.Command) *path {
	return s.m.path(s.hosts[c.Word(t, 0)], s.hosts[c.Word(t, 1)])
}

func (s *scripted) new(t *testing.T, c *golden.Command) string {
	c.Known(t, "latency", "packet", "queue", "window")
	var cfg Config
	c.MaybeScanArgs(t, "latency", &cfg.Latency)
	c.MaybeScanArgs(t, "packet", &cfg.Packet)
	c.MaybeScanArgs(t, "queue", &cfg.Queue)
	c.MaybeScanArgs(t, "window", &cfg.Window)
	cfg, err := cfg.complete()
	require.NoError(t, err)
	s.m = newModel(cfg)
	return ""
}

func (s *scripted) host(t *testing.T, c *golden.Command) string {
	c.Known(t, "egress", "ingress")
	name := c.Word(t, 0)
	h := s.m.host(name)
	c.MaybeScanArgs(t, "egress", &h.egress.rate)
	c.MaybeScanArgs(t, "ingress", &h.ingress.rate)
	s.hosts[name] = h
	return ""
}

func (s *scripted) flow(t *testing.T, c *golden.Command) string {
	name, from, to := c.Word(t, 0), c.Word(t, 1), c.Word(t, 2)
	f := s.m.flow(s.m.path(s.hosts[from], s.hosts[to]), name)
	s.flows[name] = f
	s.reads[f] = c.HasArg("reads")
	return ""
}

func (s *scripted) signal(t *testing.T, c *golden.Command) string {
	s.m.signal(s.path(t, c), c.Word(t, 2), c.HasArg("keep"))
	return ""
}

func (s *scripted) latency(t *testing.T, c *golden.Command) string {
	s.path(t, c).latency = duration(t, c.Word(t, 2))
	return ""
}

func (s *scripted) cut(t *testing.T, c *golden.Command) string {
	s.hosts[c.Word(t, 0)].cut = true
	return ""
}

func (s *scripted) stall(t *testing.T, c *golden.Command) string {
	s.path(t, c).stalled = true
	return ""
}

func (s *scripted) heal(t *testing.T, c *golden.Command) string {
	s.m.heal(s.hosts[c.Word(t, 0)])
	return ""
}

func duration(t *testing.T, text string) time.Duration {
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

// run lets time pass, and prints what happens.
func (s *scripted) run(t *testing.T, c *golden.Command) string {
	var out strings.Builder
	until := duration(t, c.Word(t, 0))
	for due, ok := s.m.next(); ok && due <= until; due, ok = s.m.next() {
		for _, a := range slices.Clone(s.m.advance(due)) {
			s.print(&out, a)
			if a.kind == arrived && s.reads[a.flow] {
				s.m.read(a.flow, a.bytes)
			}
		}
	}
	s.m.advance(until)
	return out.String()
}

func (s *scripted) print(out *strings.Builder, a action) {
	fmt.Fprintf(out, "%v ", s.m.now)
	switch a.kind {
	case left:
		fmt.Fprintf(out, "%v: %d left\n", a.flow.user, a.bytes)
	case arrived:
		fmt.Fprintf(out, "%v: %d arrived\n", a.flow.user, a.bytes)
	case finished:
		fmt.Fprintf(out, "%v: finished\n", a.flow.user)
	case signalled:
		fmt.Fprintf(out, "signal %v\n", a.signal)
	}
}

// show prints what waits where.
func (s *scripted) show(*testing.T, *golden.Command) string {
	var out strings.Builder
	for _, p := range s.m.paths {
		for _, f := range p.flows {
			place := []string{nowhere: "nowhere", asking: "asking for room", ready: "ready or sending"}[f.place]
			fmt.Fprintf(&out, "%v: %d pending, %d unread, %s\n", f.user, f.pending, f.unread, place)
		}
	}
	return out.String()
}
