package deploy_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/bench"
	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/internal/oracle"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/model/checkpoint"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/attention"
	"github.com/tandem-moe/tandem/serve/batch"
	"github.com/tandem-moe/tandem/serve/deploy"
	"github.com/tandem-moe/tandem/serve/node"
	"github.com/tandem-moe/tandem/serve/sample"
)

var (
	layoutSeed  = flag.Uint64("layout.seed", 0, "repeat the layout of this seed (0: draw new ones)")
	layoutModel = flag.String("layout.model", "", "repeat a layout of this model's folder")
	layoutCount = flag.Int("layout.count", 4, "layouts per model, at least: more where there are few models")
)

// layout is one way to serve the same requests: everything that must not change an
// answer, and the wire, which may.
type layout struct {
	wire                          route.Wire
	seed                          uint64
	attention, experts, micro     int
	transport                     string
	pageTokens, maxBatched, chunk int
	reuse                         bool
	maxSeqs, pages                int
	linger                        time.Duration
	isas                          []kernel.ISA
	threads                       []int
	order                         []int
	preempt                       []batch.Forced
	devices                       []deviceKind // of the nodes, in the order of their creation
	lose                          []attention.Loss
	slow                          time.Duration // the longest pause of attention and experts
	replicas                      uint64        // the seed of the placement, 0: even
	alone                         []deviceKind  // of the expert nodes, in place of their devices; "" for the others
}

// What a layout draws from, where there is no more than this.
var (
	transports = []string{"inproc", "shm", "tcp"}
	rowFormats = []kernel.RowFormat{kernel.RowF32, kernel.RowBF16, kernel.RowInt8}
	combines   = []route.Combine{route.ByExpert, route.Partial}
	devices    = []deviceKind{atOnce, atOnce, async, discrete}
	alone      = []deviceKind{"", "", "", "", expertsOnly, unshared}
)

// drawLayout draws a layout from a seed.
func drawLayout(seed uint64, requests int) layout {
	rng := rand.New(rand.NewPCG(seed, 1))
	pick := func(values ...int) int { return values[rng.IntN(len(values))] }
	l := layout{
		seed: seed, attention: 1 + rng.IntN(4), experts: 1 + rng.IntN(5), micro: 1 + rng.IntN(4),
		transport:  transports[rng.IntN(len(transports))],
		pageTokens: pick(16, 32, 64), maxBatched: pick(8, 17, 32, 64), chunk: pick(0, 3, 7, 16),
		reuse: rng.IntN(3) > 0, maxSeqs: pick(2, 4, 8), pages: pick(6, 12, 40),
		linger: []time.Duration{0, -1, 20 * time.Microsecond, 2 * time.Millisecond}[rng.IntN(4)],
		order:  rng.Perm(requests),
	}
	isas := kernel.Available()
	for range l.attention + l.experts {
		l.isas = append(l.isas, isas[rng.IntN(len(isas))])
		l.threads = append(l.threads, 1+rng.IntN(3))
	}
	for range rng.IntN(4) {
		l.preempt = append(l.preempt, batch.Forced{Sequence: rng.IntN(3), Step: 1 + rng.IntN(6)})
	}
	l.wire = route.Wire{Rows: rowFormats[rng.IntN(len(rowFormats))], Combine: combines[rng.IntN(len(combines))]}
	for range l.attention + l.experts {
		l.devices = append(l.devices, devices[rng.IntN(len(devices))])
	}
	for range rng.IntN(3) {
		l.lose = append(l.lose, attention.Loss{Dispatches: 1 + rng.Uint64N(30), Place: rng.IntN(l.experts)})
	}
	if rng.IntN(3) > 0 {
		l.replicas = 1 + rng.Uint64N(3) // few seeds, so that layouts share plain answers
	}
	for range l.experts {
		l.alone = append(l.alone, alone[rng.IntN(len(alone))])
	}
	return l
}

func (l layout) String() string {
	return fmt.Sprintf("seed %d: %v, %dA %dE placed %d m=%d %s pages %d×%d rows %d chunk %d reuse %v seqs %d linger %v isa %v threads %v devices %v alone %q order %v preempt %v lose %v",
		l.seed, l.wire, l.attention, l.experts, l.replicas, l.micro, l.transport, l.pages, l.pageTokens, l.maxBatched, l.chunk, l.reuse, l.maxSeqs,
		l.linger, l.isas, l.threads, l.devices, l.alone, l.order, l.preempt, l.lose)
}

// options returns the layout as a deployment's options.
func (l layout) options(m *deploy.Model) deploy.Options {
	o := deploy.Options{
		Attention: l.attention, Experts: l.experts, MicroBatches: l.micro, Transport: l.transport, Wire: l.wire,
		PageTokens: l.pageTokens, MaxBatchedTokens: l.maxBatched, ChunkTokens: l.chunk, NoPrefixReuse: !l.reuse,
		MaxNumSeqs: l.maxSeqs, MaxModelLen: longest, Linger: l.linger, Preempt: l.preempt,
	}
	for _, loss := range l.lose {
		loss.Place %= l.experts // tests change the number of expert nodes
		o.Lose = append(o.Lose, loss)
	}
	if l.replicas > 0 {
		o.Placement = placementOf(m, l.experts, l.replicas)
	}
	// Enough pages for the longest sequence, and few more.
	pages := max(l.pages, (longest+l.pageTokens-1)/l.pageTokens)
	o.KVMemory = deploy.CacheBytes(m, l.pageTokens) * int64(pages*l.attention)
	if l.transport == "shm" && slices.Contains(l.alone, unshared) {
		o.Transport = "shm+tcp"
	}
	o.Device = func(node string, pool *kernel.Pool) (kernel.ExpertDevice, error) {
		i := l.created(node) % len(l.isas)
		dev, err := kernel.NewCPU(kernel.CPUOptions{ISA: l.isas[i], Threads: l.threads[i], Pool: pool})
		if err != nil {
			return nil, err
		}
		if l.slow > 0 {
			return kerneltest.NewSlow(dev, l.slow), nil
		}
		return l.kind(node).over(dev), nil
	}
	return o
}

// longest bounds the length of these tests' sequences, in tokens.
const longest = 96

// requests returns the requests that each layout serves: greedy and sampled, short and
// long, some with a common prefix, some with log-probabilities of their prompt.
func requests(vocabulary int) []serve.Request {
	rng := rand.New(rand.NewPCG(7, uint64(vocabulary)))
	tokens := func(n int) []int32 {
		t := make([]int32, n)
		for i := range t {
			t[i] = int32(rng.IntN(vocabulary))
		}
		return t
	}
	common := tokens(40)
	prompt := func(shared, own int) []int32 { return slices.Concat(common[:shared], tokens(own)) }
	sampled := sample.Params{Temperature: 0.9, TopK: 40, TopP: 0.95, MinP: 0.01, RepetitionPenalty: 1.1, PresencePenalty: 0.2, FrequencyPenalty: 0.3, Seed: 11}
	list := []serve.Request{
		{Prompt: prompt(40, 9), MaxTokens: 12},
		{Prompt: prompt(40, 17), MaxTokens: 10, Sampling: sampled},
		{Prompt: prompt(40, 9), MaxTokens: 9, Sampling: sample.Params{Temperature: 1.5, Seed: 3}},
		{Prompt: tokens(1), MaxTokens: 14, Sampling: sample.Params{Temperature: 0.7, TopP: 0.8, Seed: 5, Choice: 2}},
		{Prompt: tokens(70), MaxTokens: 5},
		{Prompt: tokens(23), MaxTokens: 6, PromptLogprobs: 2},
		{Prompt: prompt(32, 0), MaxTokens: 8, Sampling: sample.Params{LogitBias: map[int32]float64{3: 5, 4: -100}, Temperature: 1, Seed: 9}},
		{Prompt: tokens(12), MaxTokens: 0, PromptLogprobs: 0},
	}
	for i := range list {
		list[i].Logprobs = i%4 - 1
		if list[i].PromptLogprobs == 0 && list[i].MaxTokens > 0 {
			list[i].PromptLogprobs = -1
		}
	}
	return list
}

// answer is a request's whole result.
type answer struct {
	tokens []int32
	logs   []serve.TokenLogprob
	prompt []serve.TokenLogprob
	finish serve.FinishReason
}

// bits prints an answer so that equal text means equal bits.
func (a answer) bits() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %s\n", a.tokens, a.finish)
	for _, list := range [][]serve.TokenLogprob{a.prompt, a.logs} {
		for _, l := range list {
			fmt.Fprintf(&b, "%d:%x", l.Token, l.Logprob.Logprob)
			for _, c := range l.Top {
				fmt.Fprintf(&b, " %d:%x", c.Token, c.Logprob)
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// add adds an event to the answer.
func (a *answer) add(e serve.Event) {
	if e.HasToken {
		a.tokens = append(a.tokens, e.Token)
	}
	if e.Logprob != nil {
		a.logs = append(a.logs, *e.Logprob)
	}
	a.prompt = append(a.prompt, e.Prompt...)
	a.finish = e.Finish
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// ask submits a request and collects its answer.
func ask(ctx context.Context, e serve.Engine, r serve.Request) (answer, error) {
	s, err := e.Submit(ctx, r)
	if err != nil {
		return answer{}, err
	}
	defer s.Close()
	var a answer
	for {
		event, err := s.Next(ctx)
		if err != nil {
			return a, ignoreEOF(err)
		}
		a.add(event)
	}
}

// run serves all requests in a layout and returns their answers and the nodes' counts.
// The first request of the order is answered before the others are submitted, so that
// there is a prefix to reuse.
func (l layout) run(t *testing.T, m *deploy.Model) ([]answer, []node.Stats) {
	t.Helper()
	return l.serve(t, m, requests(m.Spec.Vocabulary))
}

// serve is run for any requests.
func (l layout) serve(t *testing.T, m *deploy.Model, list []serve.Request) ([]answer, []node.Stats) {
	t.Helper()
	return serveWith(t, m, l.options(m), l, list)
}

// serveWith is serve with other options than the layout's.
func serveWith(
	t *testing.T, m *deploy.Model, o deploy.Options, l layout, list []serve.Request,
) ([]answer, []node.Stats) {
	t.Helper()
	local, err := deploy.StartLocal(t.Context(), m, o, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, local.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	answers, errs := make([]answer, len(list)), make([]error, len(list))
	answers[l.order[0]], errs[l.order[0]] = ask(ctx, local.Engine, list[l.order[0]])
	var all sync.WaitGroup
	for _, i := range l.order[1:] {
		all.Go(func() { answers[i], errs[i] = ask(ctx, local.Engine, list[i]) })
		runtime.Gosched()
	}
	all.Wait()
	require.NoError(t, errors.Join(errs...), "%v", l)
	return answers, local.Stats()
}

// total is the sum of several runs' counts.
type total struct {
	layouts, preemptions, reused, joined, lingers, givenUp uint64
	bytes                                                  map[string]uint64
	wires                                                  map[route.Wire]int
	devices                                                map[deviceKind]int
	replicated                                             map[route.Combine]int
	unshared                                               map[string]int // by the layout's transport
}

func (c *total) add(stats []node.Stats) {
	c.layouts++
	for _, s := range stats {
		c.preemptions += s.Preemptions
		c.givenUp += s.StepsGivenUp
		c.reused += s.PrefixHits
		c.joined += uint64(max(0, s.Gather.Messages-s.Gather.Runs))
		c.lingers += uint64(s.Gather.Linger)
		for _, p := range s.Peers {
			for transport, traffic := range p.Sent {
				c.bytes[transport] += traffic.Bytes
			}
		}
	}
}

// check asserts that the events that a layout was drawn for happened.
func (l layout) check(t *testing.T, stats []node.Stats) {
	t.Helper()
	c := total{bytes: map[string]uint64{}}
	c.add(stats)
	requireTransports(t, stats, l.between)
	if !l.reuse {
		require.Zero(t, c.reused, "%v: tokens were reused", l)
	}
	if l.attention == 1 && l.micro == 1 {
		require.Zero(t, c.joined, "%v: rows of one micro-batch were joined", l)
	}
	for _, s := range stats {
		if s.Role == cluster.Attention {
			require.Zero(t, s.UsedTokens, "%v: pages are still held on %s", l, s.Node)
		}
	}
}

// models returns the model folders of the layouts test: every reference model, and ""
// for the embedded one.
func models(t *testing.T) []string {
	if *layoutModel != "" {
		return []string{strings.TrimPrefix(*layoutModel, "gopher")}
	}
	if raceEnabled {
		return oracle.Models(t)[:1]
	}
	return append(oracle.Models(t, model.Mixtral, model.Qwen3MoE, model.OLMoE), "")
}

// numerics is the part of a layout that an answer may depend on. The number of expert
// nodes, and the seed of their placement, are part of it only where each expert node adds
// up its own results for a row.
type numerics struct {
	wire     route.Wire
	experts  int
	replicas uint64
}

func (l layout) numerics() numerics {
	if l.wire.Combine == route.Partial {
		return numerics{l.wire, l.experts, l.replicas}
	}
	return numerics{wire: l.wire}
}

// placementOf returns the placement of a model's experts.
func (n numerics) placementOf(m *deploy.Model) route.Placement {
	return placementOf(m, max(1, n.experts), n.replicas)
}

// plainAnswers are the plain version's answers, by numerics.
type plainAnswers map[numerics][]answer

func (p plainAnswers) of(t *testing.T, m *deploy.Model, l layout) []answer {
	n := l.numerics()
	if p[n] == nil {
		p[n] = plain(t, m, n)
	}
	return p[n]
}

// TestLayoutsGiveTheSameBits serves the same requests in random layouts: tokens and
// log-probabilities are, bit for bit, those of the plain version, which rounds rows as
// the layout's wire does.
func TestLayoutsGiveTheSameBits(t *testing.T) {
	c := total{bytes: map[string]uint64{}, wires: map[route.Wire]int{}, devices: map[deviceKind]int{}, replicated: map[route.Combine]int{}, unshared: map[string]int{}}
	dirs := models(t)
	draws := newDraws(dirs)
	for _, dir := range dirs {
		name := "gopher"
		if dir != "" {
			name = filepath.Base(dir)
		}
		t.Run(name, func(t *testing.T) {
			m, err := deploy.OpenModel(dir)
			require.NoError(t, err)
			defer m.Checkpoint.Close()
			want := plainAnswers{}
			for _, l := range draws.layouts(dir, len(requests(m.Spec.Vocabulary))) {
				t.Log(l)
				got, stats := l.run(t, m)
				l.compare(t, dir, want.of(t, m, l), got)
				l.check(t, stats)
				c.add(stats)
				c.wires[l.wire]++
				for _, s := range stats {
					c.devices[l.kind(s.Node)]++
				}
				c.unshared[l.transport] += l.counts(unshared)
				if l.replicas > 0 && l.experts > 1 {
					c.replicated[l.wire.Combine]++
				}
			}
		})
	}
	t.Logf("%d layouts: %+v", c.layouts, c)
	if wholeRun() && !t.Failed() {
		require.GreaterOrEqual(t, c.layouts, uint64(leastLayouts))
		require.Positive(t, c.preemptions, "preemptions")
		require.Positive(t, c.reused, "reused tokens")
		require.Positive(t, c.joined, "messages that were joined with others")
		require.Positive(t, c.lingers, "gathers that a linger ended")
		require.Positive(t, c.givenUp, "steps that were given up for want of an expert node")
		require.Positive(t, c.bytes["inproc"], "bytes in process")
		require.Positive(t, c.bytes["shm"], "bytes by shared memory")
		require.Positive(t, c.bytes["tcp"], "bytes by TCP")
		require.Len(t, c.wires, len(rowFormats)*len(combines), "ways to travel")
		for _, kind := range slices.Concat(devices, []deviceKind{expertsOnly, unshared}) {
			require.Positive(t, c.devices[kind], "devices %s", kind)
		}
		require.Positive(t, c.unshared["shm"], "expert nodes beside others that share memory, which they cannot")
		require.Len(t, c.replicated, len(combines), "ways to combine where experts are replicated")
	}
}

// TestWideLayoutsGiveTheSameBits is the layouts test with messages that are larger than a
// socket's buffers, between nodes of different speeds: in each layer and step, 256 KB go
// to the experts and twice that comes back, by TCP. It fails where two ends wait for each
// other to read. All layouts must give the answers of one process without copies.
func TestWideLayoutsGiveTheSameBits(t *testing.T) {
	if raceEnabled {
		t.Skip("a wide model, slow under the detector")
	}
	m := wideModel(t)
	list := wideRequests(m.Spec.Vocabulary)
	plain := drawLayout(1, len(list)).wide()
	plain.transport, plain.lose = "inproc", nil
	want, _ := plain.serve(t, m, list)
	for i := range 4 {
		l := drawLayout(drawSeed(), len(list)).wide()
		l.slow = time.Duration(i%3) * time.Millisecond
		t.Log(l)
		got, stats := l.serve(t, m, list)
		l.compare(t, "wide", want, got)
		l.check(t, stats)
	}
}

// wide returns a layout in which all sequences decode in one micro-batch of 32 rows.
func (l layout) wide() layout {
	l.wire, l.transport, l.preempt = route.Wire{}, "tcp", nil
	l.attention, l.experts, l.micro = 1, 1+l.experts%2, 1
	for i := range l.lose {
		l.lose[i].Place %= l.experts
	}
	l.maxSeqs, l.maxBatched, l.chunk, l.pages = 32, 64, 0, 32*longest/16
	return l
}

// wideRequests returns as many requests as a wide layout runs at a time.
func wideRequests(vocabulary int) []serve.Request {
	var list []serve.Request
	for i := range 32 {
		r := serve.Request{MaxTokens: 10, Logprobs: 1, PromptLogprobs: -1}
		for j := range 4 {
			r.Prompt = append(r.Prompt, int32((i*97+j*31)%vocabulary))
		}
		list = append(list, r)
	}
	return list
}

// wideModel opens a model of random weights with wide rows that takes little to compute.
func wideModel(t *testing.T) *deploy.Model {
	t.Helper()
	m, err := deploy.OpenModel(wideFolder(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Checkpoint.Close()) })
	return m
}

func wideFolder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "wide")
	require.NoError(t, bench.WriteModel(dir, bench.Shape{
		Hidden: 2048, Layers: 2, Heads: 4, KVHeads: 1, HeadDim: 16, Experts: 4, TopK: 2, ExpertIntermediate: 16,
		Vocabulary: 512, MaxPositions: 2048,
	}, checkpoint.BF16, 1))
	return dir
}

// leastLayouts is how many layouts are drawn in all, however few models there are.
const leastLayouts = 40

// draws chooses the seeds of a test run. Random seeds alone would sometimes leave out a
// case that the test claims to cover. So the layouts take turns over the transports, the
// wires, and the settings that make preemptions, reuse, joined messages and lingers
// likely: a seed is drawn again until its layout fits the turn.
type draws struct {
	perModel map[string]int
	drawn    int
}

// newDraws divides the layouts among the models. The embedded model, whose layouts take
// ten times as long as a reference model's, gets as few as possible.
func newDraws(dirs []string) *draws {
	d := &draws{perModel: map[string]int{}}
	small := max(1, len(dirs)-1)
	for _, dir := range dirs {
		d.perModel[dir] = *layoutCount
		if dir != "" && wholeRun() {
			d.perModel[dir] = max(*layoutCount, (leastLayouts-*layoutCount+small-1)/small)
		}
	}
	return d
}

// wholeRun says whether the run must cover all cases: it repeats no single model or
// layout, draws enough layouts, and runs without the race detector.
func wholeRun() bool {
	return *layoutSeed == 0 && *layoutModel == "" && *layoutCount >= 4 && !raceEnabled
}

// seeds returns so many random seeds, or the one to repeat.
func seeds() []uint64 {
	if *layoutSeed != 0 {
		return []uint64{*layoutSeed}
	}
	list := make([]uint64, *layoutCount)
	for i := range list {
		list[i] = drawSeed()
	}
	return list
}

func drawSeed() uint64 { return 1 + rand.Uint64N(1<<40) }

// layouts returns a model's layouts for so many requests, or the one to repeat.
func (d *draws) layouts(dir string, requests int) []layout {
	if *layoutSeed != 0 {
		return []layout{drawLayout(*layoutSeed, requests)}
	}
	var list []layout
	for range d.perModel[dir] {
		l := drawLayout(drawSeed(), requests)
		for !l.takes(d.drawn) {
			l = drawLayout(drawSeed(), requests)
		}
		d.drawn++
		list = append(list, l)
	}
	return list
}

// takes says whether a layout fits turn i of a run. The layout of every second turn must
// have the settings that cause the counted events: several attention nodes that wait for
// each other, pages to reuse, and preemptions. Every second layout with shared memory has
// an expert node that cannot use it.
func (l layout) takes(turn int) bool {
	n := len(transports) * len(rowFormats)
	fits := l.transport == transports[turn%len(transports)] && l.wire == route.Wire{
		Rows:    rowFormats[turn/len(transports)%len(rowFormats)],
		Combine: combines[turn/n%len(combines)],
	}
	eventful := l.attention > 1 && l.micro > 1 && l.linger >= 0 && l.reuse && l.pageTokens <= 32 && len(l.preempt) > 1
	if l.transport == "shm" && turn%2 == 1 && l.counts(unshared) == 0 {
		return false
	}
	return fits && (turn%2 == 1 || eventful)
}

// compare fails where answers differ, and prints the command that repeats the layout.
func (l layout) compare(t *testing.T, dir string, want, got []answer) {
	t.Helper()
	for i := range want {
		if want[i].bits() == got[i].bits() {
			continue
		}
		if dir == "" {
			dir = "gopher"
		}
		test, _, _ := strings.Cut(t.Name(), "/")
		t.Fatalf("request %d differs in the layout %v\nwant %s\ngot %s\nrepeat: go test ./serve/deploy -run %s -layout.model=%s -layout.seed=%d",
			i, l, want[i].bits(), got[i].bits(), test, dir, l.seed)
	}
}
