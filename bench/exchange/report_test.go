package exchange

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// exampleReport has rows of many shapes.
func exampleReport() *Report {
	r := &Report{Repeats: 1}
	for _, s := range []Shape{
		{1, 1, 128 << 10, 1}, {1, 2, 128 << 10, 1}, {1, 8, 128 << 10, 1},
		{8, 8, 2 << 10, 1}, {8, 8, 256 << 10, 1}, {8, 8, 8 << 20, 1},
		{4, 4, 256 << 10, 1}, {16, 16, 256 << 10, 1}, {16, 16, 256 << 10, 64},
	} {
		us := float64(s.total()) / 1e4
		turns := func(factor float64) []turn {
			return []turn{{times: []float64{factor * us / 1e6, 2 * factor * us / 1e6}}}
		}
		r.add(s, []*entrant{
			{name: "shm", turns: turns(0.3)}, {name: "tcp", turns: turns(1)},
			{name: "grpc", turns: turns(3)}, {name: "mpi-shm", turns: turns(0.4)}, {name: "mpi-tcp", turns: turns(1.2)}, {name: "raw-crc", turns: turns(0.9)},
		}, 1e10)
	}
	return r
}

// TestReport: figures of a row, from times.
func TestReport(t *testing.T) {
	s := Shape{Senders: 2, Receivers: 4, Bytes: 1000, Messages: 1}
	r := &Report{Repeats: 2}
	r.add(s, []*entrant{
		{name: "tcp", turns: []turn{{iterations: 3, times: []float64{1e-6, 2e-6, 3e-6}, cpu: 1e-6, bytes: 8000}, {iterations: 3, times: []float64{2e-6, 2e-6, 4e-6}, cpu: 3e-6, bytes: 8000}}},
		{name: "grpc", turns: []turn{{times: []float64{8e-6}}, {times: []float64{8e-6}}}},
	}, 16e9)
	row := r.Rows[0]
	require.InDelta(t, 2, row.MedianUS, 1e-9)
	require.InDelta(t, 4, row.P99US, 1e-9)
	require.InDelta(t, 4, row.GBps, 1e-9, "8000 bytes in 2 µs")
	require.InDelta(t, 0.25, *row.CPUPerGB, 1e-9, "4 µs for 16 kB")
	require.InDelta(t, 0.25, row.Share, 1e-9)
	require.Equal(t, map[string]float64{"grpc": 0.25}, row.Ratios)
	require.Equal(t, 6, row.Iterations)
	require.Equal(t, 6, row.Processes)
	require.Nil(t, r.Rows[1].CPUPerGB)
	require.Empty(t, r.Rows[1].Ratios, "m2n is no baseline")

	row.compareLine(32e9, 0)
	require.Equal(t, "link", row.Line)
	require.InDelta(t, 0.5, row.Share, 1e-9, "4000 bytes from a sender in 2 µs; the link moves 4 GB/s")
}

// TestJSON: the fields that others read.
func TestJSON(t *testing.T) {
	r := exampleReport()
	r.Skipped = []Skipped{{Kind: "skipped", Transport: "ucx", Shape: Shape{1, 1, 8, 1}, Reason: "not installed"}}
	var out strings.Builder
	require.NoError(t, r.WriteJSON(&out))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, len(r.Rows)+1)
	for _, line := range lines[:len(r.Rows)] {
		var row map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &row))
		require.Equal(t, "m2n", row["kind"])
		for _, field := range []string{"transport", "senders", "receivers", "bytes", "messages", "median_us", "p99_us", "gb_per_s", "cpu_s_per_gb", "share_of_line", "ratios", "iterations", "processes", "cores"} {
			require.Contains(t, row, field)
		}
	}
	require.JSONEq(t, `{"kind":"skipped","transport":"ucx","senders":1,"receivers":1,"bytes":8,"messages":1,"reason":"not installed"}`, lines[len(lines)-1])
}

// TestTable has a line for each row, and says what is missing.
func TestTable(t *testing.T) {
	r := exampleReport()
	for _, s := range []Shape{{8, 8, 2048, 1}, {8, 8, 4096, 1}} {
		r.Skipped = append(r.Skipped, Skipped{Transport: "ucx", Shape: s, Reason: "ucx_perftest: not installed"})
	}
	var out strings.Builder
	r.WriteTable(&out)
	text := out.String()
	require.Len(t, regexp.MustCompile(`(?m)^│ \d`).FindAllString(text, -1), len(r.Rows), text)
	require.Contains(t, text, "256 KB × 64")
	require.Contains(t, text, "× mpi-shm")
	require.Contains(t, text, "ucx: ucx_perftest: not installed (8 × 8, 2 KB; 8 × 8, 4 KB)\n")
}
