package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tandem-moe/tandem/kernel"
)

// TestMain is a node of Serve too, where Serve starts the test's program as one.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == nodeArgument {
		if err := ServeNode(context.Background(), os.Args[2], os.Stdin, os.Stdout, slog.Default()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// nodeArgument makes the test's program a node.
const nodeArgument = "serve-node"

// A run with little memory measures everything, and prints as a table and as
// JSON.
func TestKernelMeasuresEachPrimitive(t *testing.T) {
	rows, err := Kernel(context.Background(), KernelOptions{Threads: 2, Repeats: 1, Memory: 1 << 20})
	require.NoError(t, err)
	names := map[string]bool{}
	for _, r := range rows {
		require.Greater(t, r.GFLOPS+r.GBps, 0.0, r.Name)
		require.False(t, names[r.Name], "two rows of %s", r.Name)
		names[r.Name] = true
		if r.Bound != "roofline" {
			require.InDelta(t, r.Predicted/r.Measured, r.Share, 1e-9, r.Name)
			require.LessOrEqual(t, r.Share, 1.0+1e-9, r.Name)
		}
	}
	var out bytes.Buffer
	WriteTable(&out, rows)
	require.Contains(t, out.String(), "Linear f32, 512 × 2048 × 2048")
	out.Reset()
	require.NoError(t, WriteJSON(&out, rows))
	var back []Row
	require.NoError(t, json.Unmarshal(out.Bytes(), &back))
	require.Equal(t, rows, back)
}

func TestKernelEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Kernel(ctx, KernelOptions{Threads: 1, Repeats: 1, Memory: 1 << 20})
	require.ErrorIs(t, err, context.Canceled)
}

func TestKernelRefusesWhatTheMachineLacks(t *testing.T) {
	_, err := Kernel(context.Background(), KernelOptions{ISA: kernel.ISA(99)})
	require.ErrorContains(t, err, "bench kernel: cpu device: instruction set ISA(99)")
}

// TestRaised: where an operation is faster than the loop that measures a limit,
// its rate is the limit, no share is above 1, and the row says so.
func TestRaised(t *testing.T) {
	product := &kernelCase{name: "product", flops: 1e9}
	stream := &kernelCase{name: "stream", bytes: 1e9}
	slow := &kernelCase{name: "slow", flops: 1e9, bytes: 1e9}
	cases := []*kernelCase{product, stream, slow}
	loops := Roofline{FMA1: 1e9, FMA: 2e9, Read1: 1e9, Read: 2e9}
	turns := []kernelTurn{
		{loops: loops, times: []float64{1, 0.25, 4}}, // stream reads 4 GB/s
		{loops: loops, times: []float64{1, 1, 4}},
		{loops: loops, times: []float64{0.4, 0.25, 4}}, // and product does 2.5 GFLOP/s
	}
	for i := range turns {
		turns[i].raise(cases)
	}
	for i, c := range cases {
		for _, turn := range turns {
			require.LessOrEqual(t, turn.roof.predict(c.flops, c.bytes), turn.times[i], c.name)
		}
	}
	require.InDelta(t, 0.5, product.row("d", turns, 0).Share, 1e-9)
	require.InDelta(t, 1, stream.row("d", turns, 1).Share, 1e-9)
	require.Equal(t, "memory", stream.row("d", turns, 1).Bound)
	require.Equal(t, "compute", product.row("d", turns, 0).Bound)
	rows := rooflineRows("d", turns, 6)
	require.InDelta(t, 2, rows[1].GFLOPS, 1e-9)
	require.InDelta(t, 4, rows[3].GBps, 1e-9)
	const each = " in 3 turns, each the best of 2 windows before, between and after the operations"
	require.Equal(t, "1.0 to 1.0 GB/s"+each, rows[2].Note)
	require.Equal(t, "2.0 to 4.0 GB/s"+each+"; raised in 2 of them to what stream reached (the loop that measures: 2.0 GB/s)", rows[3].Note)
	require.Equal(t, "2.0 to 2.5 GFLOP/s"+each+"; raised in 1 of them to what product reached (the loop that measures: 2.0 GFLOP/s)", rows[1].Note)
}

// TestTurnMeasuresTheRooflineAgain: before the operations, between and after them.
func TestTurnMeasuresTheRooflineAgain(t *testing.T) {
	pool := kernel.NewPool(1)
	defer pool.Close()
	limits := &rooflineBench{pool: pool, threads: 1, memory: make([]byte, readPiece), loops: scalarLoops()}
	limits.loops.multiplyAdd = func(int) {} // only the order counts
	var before []int
	c := &kernelCase{name: "x", calls: 1, run: func(int) { before = append(before, limits.windows) }}
	_, err := measureTurn(t.Context(), limits, slices.Repeat([]*kernelCase{c}, casesPerWindow+1))
	require.NoError(t, err)
	var want []int
	for pass := range passes {
		want = append(want, slices.Repeat([]int{1 + 2*pass}, casesPerWindow)...)
		want = append(want, 2+2*pass)
	}
	require.Equal(t, want, before)
	require.Equal(t, 1+2*passes, limits.windows)
}

// TestReadsAllOfTheMemory once, in so many streams.
func TestReadsAllOfTheMemory(t *testing.T) {
	pool := kernel.NewPool(2)
	defer pool.Close()
	memory := make([]byte, 3*readPiece)
	for _, streams := range readStreams() {
		var read sync.Map // of lines, by their address
		var twice atomic.Int32
		b := &rooflineBench{pool: pool, threads: 2, memory: memory, loops: loops{read: func(b []byte) {
			for at := 0; at < len(b); at += readLine {
				if _, seen := read.LoadOrStore(&b[at], true); seen {
					twice.Add(1)
				}
			}
		}}}
		require.Positive(t, b.read(2, streams))
		require.Zero(t, twice.Load(), "%d streams", streams)
		for at := 0; at < len(memory); at += readLine {
			_, seen := read.Load(&memory[at])
			require.True(t, seen, "%d streams, offset %d", streams, at)
		}
	}
}

// The roofline is the larger of the two times.
func TestPredict(t *testing.T) {
	r := Roofline{FMA: 100, Read: 10}
	require.Equal(t, 3.0, r.predict(300, 10))
	require.Equal(t, 2.0, r.predict(100, 20))
}
