package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/bench/exchange"
)

// exampleReport has rows for all figures.
func exampleReport() *report {
	r := &report{}
	for _, s := range []exchange.Shape{
		{Senders: 1, Receivers: 1, Bytes: 128 << 10}, {Senders: 1, Receivers: 2, Bytes: 128 << 10}, {Senders: 1, Receivers: 8, Bytes: 128 << 10},
		{Senders: 8, Receivers: 8, Bytes: 2 << 10}, {Senders: 8, Receivers: 8, Bytes: 256 << 10}, {Senders: 8, Receivers: 8, Bytes: 8 << 20},
		{Senders: 4, Receivers: 4, Bytes: 256 << 10}, {Senders: 16, Receivers: 16, Bytes: 256 << 10},
	} {
		s.Messages = 1
		r.rows = append(r.rows, rowsOf(s)...)
	}
	return r
}

// rowsOf are those of all contestants with a shape, from shm's third of a time to
// grpc's threefold.
func rowsOf(s exchange.Shape) []exchange.Row {
	names := []string{"shm", "tcp", "grpc", "mpi-shm", "mpi-tcp", "raw-crc"}
	factors := []float64{0.3, 1, 3, 0.4, 1.2, 0.9}
	us := float64(s.Senders*s.Receivers*s.Bytes) / 1e4
	var rows []exchange.Row
	for i, name := range names {
		row := exchange.Row{
			Kind: "m2n", Transport: name, Shape: s, MedianUS: factors[i] * us, P99US: 2 * factors[i] * us, GBps: 10 / factors[i],
			Ratios: map[string]float64{}, P99Ratios: map[string]float64{},
		}
		for j, other := range names {
			if j != i && !exchange.Ours(other) {
				row.Ratios[other], row.P99Ratios[other] = factors[i]/factors[j], factors[i]/factors[j]
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// TestFigures are drawn where there are points for them, and say whose figures
// they show.
func TestFigures(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	files, err := exampleReport().writeFigures(dir)
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(dir, "figure5.svg"), filepath.Join(dir, "figure11.svg"), filepath.Join(dir, "figure12.svg")}, files)
	for file, want := range map[string][]string{
		"figure5.svg":  {"One sender, 128 KB to each receiver", "tcp ÷ grpc", "another system (MegaScale-Infer, 128 KB): perftest ÷ NCCL"},
		"figure11.svg": {"8 senders, 8 receivers", "8 MB", "another system (MegaScale-Infer): m2n ÷ NCCL, 8 × 8, 256 KB"},
		"figure12.svg": {"256 KB per pair", "shm ÷ mpi-shm", "another system (MegaScale-Infer): m2n ÷ NCCL, least"},
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		require.NoError(t, err)
		drawn := svgText(t, string(text))
		for _, w := range want {
			require.Contains(t, drawn, w, file)
		}
	}
}

// svgText is what a picture says, a line each.
func svgText(t *testing.T, text string) []string {
	t.Helper()
	var lines []string
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return lines
		}
		require.NoError(t, err)
		if data, ok := token.(xml.CharData); ok {
			if line := strings.TrimSpace(string(data)); line != "" {
				lines = append(lines, line)
			}
		}
	}
}

// TestFiguresWithoutOurs are baselines' alone.
func TestFiguresWithoutOurs(t *testing.T) {
	r := &report{}
	for n := range 3 {
		s := exchange.Shape{Senders: 1, Receivers: n + 1, Bytes: 8, Messages: 1}
		r.rows = append(r.rows, exchange.Row{Transport: "raw", Shape: s, MedianUS: 1, P99US: 1, GBps: 1})
	}
	files, err := r.writeFigures(t.TempDir())
	require.NoError(t, err)
	require.Len(t, files, 1)
}

// TestFiguresOfOnePoint are left out.
func TestFiguresOfOnePoint(t *testing.T) {
	r := &report{rowsOf(exchange.Shape{Senders: 1, Receivers: 1, Bytes: 8, Messages: 1})}
	files, err := r.writeFigures(t.TempDir())
	require.NoError(t, err)
	require.Empty(t, files)
}

// TestProgram draws what is printed as JSON, and names the files.
func TestProgram(t *testing.T) {
	var in, out bytes.Buffer
	e := json.NewEncoder(&in)
	for _, row := range exampleReport().rows {
		require.NoError(t, e.Encode(row))
	}
	require.NoError(t, e.Encode(exchange.Skipped{Kind: "skipped", Transport: "ucx", Reason: "not installed"}))
	dir := t.TempDir()
	require.NoError(t, run([]string{dir}, &in, &out))
	want := ""
	for _, name := range []string{"figure5.svg", "figure11.svg", "figure12.svg"} {
		want += filepath.Join(dir, name) + "\n"
		require.FileExists(t, filepath.Join(dir, name))
	}
	require.Equal(t, want, out.String())
}

// TestRowsThatAreRefused name the row and the field.
func TestRowsThatAreRefused(t *testing.T) {
	good, err := json.Marshal(rowsOf(exchange.Shape{Senders: 1, Receivers: 2, Bytes: 8, Messages: 1})[0])
	require.NoError(t, err)
	rows, err := readRows(bytes.NewReader(good))
	require.NoError(t, err)
	require.Len(t, rows, 1)
	for want, edit := range map[string][2]string{
		`kind "m2m"`:                       {`"m2n"`, `"m2m"`},
		"senders 0":                        {`"senders":1`, `"senders":0`},
		"receivers -2":                     {`"receivers":2`, `"receivers":-2`},
		"gb_per_s 0":                       {`"gb_per_s":33.333333333333336`, `"gb_per_s":0`},
		"ratios of grpc: -1":               {`"grpc":0.09999999999999999`, `"grpc":-1`},
		"object 2: invalid":                {`"m2n"`, `oops`},
		"object 2: json: cannot unmarshal": {`"senders":1`, `"senders":"1"`},
	} {
		text := strings.Replace(string(good), edit[0], edit[1], 1)
		require.NotEqual(t, string(good), text, want)
		_, err := readRows(strings.NewReader(string(good) + "\n" + text))
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "object 2")
	}
	require.ErrorContains(t, run(nil, nil, nil), "want FOLDER")
}
