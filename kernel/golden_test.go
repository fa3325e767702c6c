package kernel

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/golden"
)

// goldenCase is a computation whose bits are recorded.
type goldenCase struct {
	name string
	run  func(t *testing.T, dev *CPU) []float32
}

// goldenBits compares each case's bits with those recorded in testdata/file by
// another machine, for every instruction set of this one. -update records those of
// the portable kernels. They change only with the numerics: nodes of the old and of
// the new kind then disagree.
func goldenBits(t *testing.T, file string, cases []goldenCase) {
	path := filepath.Join("testdata", file)
	if golden.Update() {
		writeGolden(t, path, cases)
	}
	want := readGolden(t, path)
	require.Len(t, want, len(cases), "%s: run go test -run %s -update", path, t.Name())
	eachISA(t, func(t *testing.T, isa ISA) {
		dev := newDevice(t, isa, 2)
		for _, c := range cases {
			require.Equal(t, want[c.name], hashBits(c.run(t, dev)), "%s: the bits of %q are not those of %s", dev.Properties().Name, c.name, path)
		}
	})
}

// hashBits is a short hash of values' bits; all NaNs are one.
func hashBits(f []float32) string {
	h := sha256.New()
	for _, v := range f {
		bits := math.Float32bits(v)
		if v != v {
			bits = 0x7fc00000
		}
		_ = binary.Write(h, binary.LittleEndian, bits)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:12])
}

func writeGolden(t *testing.T, path string, cases []goldenCase) {
	var b strings.Builder
	dev := newDevice(t, Portable, 1)
	for _, c := range cases {
		fmt.Fprintf(&b, "%s %s\n", hashBits(c.run(t, dev)), c.name)
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
}

// readGolden maps names to hashes.
func readGolden(t *testing.T, path string) map[string]string {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	hashes := map[string]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		hash, name, ok := strings.Cut(s.Text(), " ")
		require.True(t, ok, "%s: %q", path, s.Text())
		hashes[name] = hash
	}
	return hashes
}

// TestGoldenBitsOfProducts: results of one machine, checked on another.
func TestGoldenBitsOfProducts(t *testing.T) {
	r := newRand(t, 8)
	var cases []goldenCase
	for _, rows := range []int{1, 2, 5, 12, 30} {
		c := newLinearCase(r, rows, 70, 150, rows == 5)
		cases = append(cases, goldenCase{c.String(), func(t *testing.T, dev *CPU) []float32 { return c.run(t, dev) }})
	}
	goldenBits(t, "products.txt", cases)
}

func TestGoldenBitsOfRows(t *testing.T) {
	c := newRowCase(newRand(t, 9))
	list, offsets := make([]int32, 2*c.rows), make([]int32, c.rows+1)
	for i := range list {
		list[i] = int32(i * 5 % c.rows)
	}
	for r := range offsets {
		offsets[r] = int32(2 * r)
	}
	on := func(op func(dev *CPU, dst, a, b Mat)) func(t *testing.T, dev *CPU) []float32 {
		return func(t *testing.T, dev *CPU) []float32 {
			dst := upload(t, dev, c.rows, c.cols, c.c)
			op(dev, dst, upload(t, dev, c.rows, c.cols, c.a), upload(t, dev, c.rows, c.cols, c.b))
			return download(dst)
		}
	}
	goldenBits(t, "rows.txt", []goldenCase{
		{"add", on(func(dev *CPU, dst, a, b Mat) { dev.Add(dst, a, b) })},
		{"scale", on(func(dev *CPU, dst, a, b Mat) { dev.ScaleRows(dst, a.ColRange(0, 1)) })},
		{"clamp", on(func(dev *CPU, dst, a, b Mat) { dev.Clamp(dst, 0.5) })},
		{"combine", on(func(dev *CPU, dst, a, b Mat) { dev.Combine(dst, a, b, list, offsets) })},
		{"copy", on(func(dev *CPU, dst, a, b Mat) { dev.CopyRows(dst, nil, a, list[:c.rows]) })},
	})
}
