package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
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

// The roofline is the larger of the two times.
func TestPredict(t *testing.T) {
	r := Roofline{FMA: 100, Read: 10}
	require.Equal(t, 3.0, r.predict(300, 10))
	require.Equal(t, 2.0, r.predict(100, 20))
}
