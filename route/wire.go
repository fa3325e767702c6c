package route

import (
	"fmt"
	"slices"

	"github.com/tandem-moe/tandem/kernel"
)

// Wire says how rows travel between attention and expert nodes, in both
// directions, and what an expert node returns. Every Wire but the zero one is a
// numerics of its own. In one process rows are rounded as they would be on the
// way to another.
type Wire struct {
	// Rows is the format of rows and of results. Each row is narrowed by itself:
	// all layouts give the same bits.
	Rows    kernel.RowFormat
	Combine Combine
}

// Combine says where the results of a row's experts are added up.
type Combine uint8

const (
	// ByExpert: an expert node returns each expert's result, and the attention node
	// adds them to the residual stream, best expert first. All layouts give the
	// same bits.
	ByExpert Combine = iota
	// Partial: an expert node adds up what its experts make of a row, best first,
	// and returns the sum; the attention node adds the nodes' sums in the nodes'
	// order. Fewer bytes where a row has several experts on a node, but which
	// results are added first depends on the placement of the experts: the bits are
	// those of one placement, whatever the micro-batches and the timing.
	Partial
)

// String returns the name that ParseCombine takes.
func (c Combine) String() string {
	switch c {
	case ByExpert:
		return "expert"
	case Partial:
		return "partial"
	}
	return "unknown"
}

// wireFormats and combines are all there are.
var (
	wireFormats = []kernel.RowFormat{kernel.RowF32, kernel.RowBF16, kernel.RowInt8}
	combines    = []Combine{ByExpert, Partial}
)

// parse finds the value with a name.
func parse[T fmt.Stringer](what, name string, all []T) (T, error) {
	var names []string
	for _, v := range all {
		if v.String() == name {
			return v, nil
		}
		names = append(names, v.String())
	}
	var none T
	return none, fmt.Errorf("%s %q: want one of %q", what, name, names)
}

// ParseFormat reads the name of a format of rows.
func ParseFormat(name string) (kernel.RowFormat, error) {
	return parse("wire", name, wireFormats)
}

// ParseCombine is the inverse of String.
func ParseCombine(name string) (Combine, error) { return parse("combine", name, combines) }

// String returns the words that numerics use: "wire bf16, combine expert".
func (w Wire) String() string { return fmt.Sprintf("wire %v, combine %v", w.Rows, w.Combine) }

// RowBytes is the size of a row of n elements.
func (w Wire) RowBytes(n int) int { return w.Rows.Bytes(n) }

// Results is how many rows a packet's answer has.
func (w Wire) Results(rows, pairs int) int {
	if w.Combine == Partial {
		return rows
	}
	return pairs
}

// code is a Wire as a header's byte.
func (w Wire) code() byte { return byte(w.Rows) | byte(w.Combine)<<4 }

// wireOf is the inverse of code.
func wireOf(b byte) (Wire, error) {
	w := Wire{Rows: kernel.RowFormat(b & 0xf), Combine: Combine(b >> 4)}
	if !slices.Contains(wireFormats, w.Rows) || !slices.Contains(combines, w.Combine) {
		return Wire{}, fmt.Errorf("rows in the unknown format %d, combined in the unknown way %d", w.Rows, w.Combine)
	}
	return w, nil
}
