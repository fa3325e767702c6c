package exchange

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// exampleReport has rows for all figures.
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

// TestFigures are drawn where there are points for them, and say whose figures
// they show.
func TestFigures(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	files, err := exampleReport().WriteFigures(dir)
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
	r := &Report{}
	for n := range 3 {
		r.add(Shape{1, n + 1, 8, 1}, []*entrant{{name: "raw", turns: []turn{{times: []float64{1}}}}}, 1)
	}
	files, err := r.WriteFigures(t.TempDir())
	require.NoError(t, err)
	require.Len(t, files, 1)
}

// TestFiguresOfOnePoint are left out.
func TestFiguresOfOnePoint(t *testing.T) {
	r := &Report{}
	r.add(Shape{1, 1, 8, 1}, []*entrant{{name: "tcp", turns: []turn{{times: []float64{1}}}}}, 1)
	files, err := r.WriteFigures(t.TempDir())
	require.NoError(t, err)
	require.Empty(t, files)
}
