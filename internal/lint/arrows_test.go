package lint

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// arrow forbids imports. Patterns are import paths, and stand for all below
// them: "serve" is serve and serve/gather. Those of this module leave the
// module's path out and are forbidden however indirectly; those of others, with
// a dot or of the standard library, only where a package names them itself.
type arrow struct {
	from []string
	// except are exempt, for the reason given.
	except []string
	to     []string
	// allowed are exempt among to: they are below a forbidden pattern, and harmless.
	allowed []string
	// direct leaves out what our own packages bring with them.
	direct bool
	reason string
}

// house lists our top-level packages; none builds on a later one.
var house = []string{
	"m2n", "certs", "schedule", "telemetry", "hardware", "kernel", "model", "layer", "route", "cluster",
	"cost", "plan", "sim", "serve", "train", "api", "web", "bench", "cmd",
}

// since lists a package and those after it.
func since(name string) []string { return house[slices.Index(house, name):] }

// others lists all but one.
func others(name string) []string {
	return slices.DeleteFunc(slices.Clone(house), func(p string) bool { return p == name })
}

// pureArithmetic is what chooses tokens from logits: functions of numbers.
var pureArithmetic = []string{"kernel/detmath"}

var arrows = []arrow{
	{from: []string{"m2n"}, to: house,
		reason: "m2n is a library that others can use alone: it moves opaque headers and spans, and knows no model"},
	{from: []string{"m2n/internal/wire"},
		to:     []string{"m2n/internal/shm", "m2n/internal/poll", "net", "os", "time", "golang.org/x/sys"},
		reason: "the frame format is bytes in and frames out: it is fuzzed without a socket"},
	{from: []string{"m2n/internal/shm"}, to: []string{"m2n/internal/poll"},
		reason: "shared memory is read when its doorbell rings; who waits for that is the engine's business"},
	{from: []string{"m2n/internal/poll"}, to: []string{"m2n/internal/wire", "m2n/internal/shm"},
		reason: "a socket carries bytes, whatever frames they are"},
	{from: []string{"certs"}, to: house,
		reason: "a certificate says who belongs to a cluster; who asks, and for what, is not its business"},
	{from: []string{"schedule"}, to: house,
		reason: "a schedule is data that planner, simulator, runtime and timeline all read: it depends on none of them"},
	{from: []string{"schedule"}, except: []string{"schedule/interpret"},
		to: []string{"net", "os", "sync", "context"},
		reason: "a schedule knows no clock, socket or thread: it is proved and dry-run before anything runs. " +
			"(schedule/interpret hands a worker its context, and tells other threads where the worker is)"},
	{from: []string{"schedule/interpret"}, to: []string{"net", "os", "time"},
		reason: "a walk through actions has no clock and no socket: those are its performer's"},
	{from: []string{"hardware"}, to: []string{"model"},
		reason: "a device is what it is, whatever model runs on it"},
	{from: []string{"kernel"}, to: append(others("kernel"), "net"),
		reason: "a kernel is arithmetic on buffers: it knows neither models nor networks, so that another device fits below the same interface"},
	{from: []string{"model"}, to: append(since("layer"), "kernel", "net"),
		reason: "model says what a model is; what is computed of it is layer's and kernel's"},
	{from: []string{"layer"}, to: append(since("route"), "m2n", "net", "os/exec"),
		reason: "a layer is arithmetic: it runs the same whatever nodes and processes there are"},
	{from: []string{"route"}, to: append(since("cluster"), "layer", "model", "m2n", "net"),
		reason: "route decides which rows go where and how they look on the wire; sockets are m2n's"},
	{from: []string{"cluster"}, to: append(since("cost"), "kernel", "layer", "route", "model", "m2n"),
		reason: "cluster says who is there; what they compute is not its business"},
	{from: []string{"telemetry"}, to: others("telemetry"),
		reason: "everything may be measured, so what measures depends on nothing"},
	{from: []string{"cost"}, to: []string{"serve", "train", "sim", "plan", "api", "m2n", "kernel", "layer"},
		reason: "the time of an action is predicted from a profile, not from the code that runs it"},
	{from: []string{"plan", "sim"}, to: []string{"serve", "train", "api", "m2n", "layer", "kernel"},
		reason: "a plan is made, and simulated, without anything that runs it"},
	{from: []string{"serve"}, to: []string{"train", "api", "cmd", "plan", "sim"},
		reason: "serving and training share what is below them, and nothing else; the front end is above"},
	{from: []string{"serve"}, except: []string{"serve/remote", "serve/deploy"}, to: []string{"net", "connectrpc.com"},
		reason: "an engine knows no HTTP: api does. (serve/remote carries the engine between processes and serve/deploy sets them up, by the control protocol)"},
	{from: []string{"serve/gather", "serve/batch", "serve/attention/dispatch", "serve/attention/pairs"},
		to: []string{"net", "os", "sync", "context", "math/rand", "kernel", "layer", "m2n"}, allowed: pureArithmetic,
		reason: "this core is pure, events in and actions out, so that it is tested as text"},
	{from: []string{"train"}, to: []string{"serve", "api", "cmd", "plan", "sim"},
		reason: "serving and training share what is below them, and nothing else"},
	{from: []string{"serve/frontend"}, allowed: pureArithmetic,
		to:     []string{"kernel", "layer", "route", "m2n", "schedule", "net"},
		reason: "the front end holds requests and gives them to workers: how a worker computes, and how its rows travel, is the worker's"},
	{from: []string{"serve/expert"}, to: []string{"serve/attention", "serve/frontend", "serve/direct", "serve/deploy",
		"serve/batch", "serve/kvcache"},
		reason: "an expert node knows rows and experts; sequences are the attention node's"},
	{from: []string{"serve/attention"}, to: []string{"serve/expert", "serve/frontend", "serve/direct", "serve/deploy"},
		reason: "an attention node knows of expert nodes what travels, and of the front end what is reported"},
	{from: []string{"api"}, to: []string{"kernel", "layer", "route", "m2n", "train", "cmd"}, direct: true,
		reason: "api turns HTTP into requests to an engine; it does no arithmetic"},
}

// within reports whether a path is the pattern or below it.
func within(path, pattern string) bool {
	return path == pattern || strings.HasPrefix(path, pattern+"/")
}

func withinAny(path string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return within(path, p) })
}

// imports are what a package must answer for: what it names, and of ours what
// that reaches.
func (p *goPackage) imports(direct bool) []string {
	var paths []string
	for _, path := range p.Imports {
		paths = append(paths, strings.TrimPrefix(path, module+"/"))
	}
	for _, dep := range p.Deps {
		if ours, ok := strings.CutPrefix(dep, module+"/"); ok && !direct && !slices.Contains(paths, ours) {
			paths = append(paths, ours)
		}
	}
	return paths
}

func TestArrows(t *testing.T) {
	for _, p := range packages(t) {
		for _, a := range arrows {
			if !withinAny(p.short(), a.from) || withinAny(p.short(), a.except) {
				continue
			}
			for _, path := range p.imports(a.direct) {
				if a.forbids(p.short(), path) {
					t.Errorf("%s must not import %s: %s", p.short(), path, a.reason)
				}
			}
		}
	}
}

// forbids reports whether the arrow keeps a package from importing a path. A pattern
// that names a whole top-level package says nothing of the packages inside of it.
func (a *arrow) forbids(from, path string) bool {
	if withinAny(path, a.allowed) {
		return false
	}
	return slices.ContainsFunc(a.to, func(pattern string) bool {
		inside := slices.Contains(house, pattern) && within(from, pattern)
		return within(path, pattern) && !inside
	})
}

// TestArrowsAreCaught: the table is read as it is meant.
func TestArrowsAreCaught(t *testing.T) {
	p := &goPackage{
		ImportPath: module + "/serve/gather",
		Imports:    []string{"context", module + "/route"},
		Deps:       []string{"net", module + "/route", module + "/kernel", module + "/serve/sample"},
	}
	require.True(t, withinAny(p.short(), []string{"serve"}))
	require.False(t, withinAny("server", []string{"serve"}))
	require.Equal(t, []string{"context", "route", "kernel", "serve/sample"}, p.imports(false))
	require.Equal(t, []string{"context", "route"}, p.imports(true))
	a := arrow{to: []string{"serve", "serve/attention", "net"}, allowed: []string{"net/netip"}}
	require.False(t, a.forbids("serve/gather", "serve/sample"), "a top-level package's own")
	require.True(t, a.forbids("serve/gather", "serve/attention"))
	require.True(t, a.forbids("api", "serve/sample"))
	require.True(t, a.forbids("api", "net/http"))
	require.False(t, a.forbids("api", "net/netip"))
}

// testOnly are modules that serve tests or make files, and that nobody who runs
// the binary should have to trust. cmd/tandem/testdata/linked.txt lists all that it
// links.
var testOnly = []string{
	"testing", "github.com/stretchr/testify", "pgregory.net/rapid", "github.com/google/go-cmp", "go.uber.org/goleak",
	"github.com/openai/openai-go", "github.com/mmcloughlin/avo", "github.com/chromedp",
	"github.com/gpustack/gguf-parser-go", "helm.sh/helm", "gonum.org",
}

func TestBinaryLinksNoTestModules(t *testing.T) {
	for _, p := range packages(t) {
		if p.Name != "main" {
			continue
		}
		for _, dep := range p.Deps {
			if withinAny(dep, testOnly) {
				t.Errorf("%s links %s, which is for tests: move what needs it into a _test.go file or a package that only tests import", p.short(), dep)
			}
		}
	}
}
