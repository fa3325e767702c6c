package route

import (
	"fmt"

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

var combineNames = [...]string{ByExpert: "expert", Partial: "partial"}

func (c Combine) known() bool { return int(c) < len(combineNames) }

// String returns the name that numerics and flags use.
func (c Combine) String() string {
	if c.known() {
		return combineNames[c]
	}
	return fmt.Sprintf("Combine(%d)", uint8(c))
}

// UnmarshalText is the inverse of String, for command lines and settings.
func (c *Combine) UnmarshalText(text []byte) error {
	for i, name := range combineNames {
		if string(text) == name {
			*c = Combine(i)
			return nil
		}
	}
	return fmt.Errorf("way to combine %q: want one of %q", text, combineNames)
}

// ParseWire reads the names of a format of rows and of a way to combine results.
func ParseWire(rows, combine string) (w Wire, err error) {
	if err := w.Rows.UnmarshalText([]byte(rows)); err != nil {
		return Wire{}, fmt.Errorf("wire: %w", err)
	}
	if err := w.Combine.UnmarshalText([]byte(combine)); err != nil {
		return Wire{}, fmt.Errorf("combine: %w", err)
	}
	return w, nil
}

// Validate refuses a Wire that there is not.
func (w Wire) Validate() error {
	if !w.Rows.Known() || !w.Combine.known() {
		return fmt.Errorf("rows travel in the unknown format %d, or are combined in the unknown way %d", w.Rows, w.Combine)
	}
	return nil
}

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
	return w, w.Validate()
}
