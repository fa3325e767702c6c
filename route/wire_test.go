package route

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
)

func TestWireByNameAndByCode(t *testing.T) {
	for _, rows := range []kernel.RowFormat{kernel.RowF32, kernel.RowBF16, kernel.RowInt8} {
		for _, combine := range []Combine{ByExpert, Partial} {
			w, err := ParseWire(rows.String(), combine.String())
			require.NoError(t, err)
			require.Equal(t, Wire{rows, combine}, w)
			again, err := wireOf(w.code())
			require.NoError(t, err)
			require.Equal(t, w, again)
		}
	}
	require.Equal(t, "wire int8, combine partial", Wire{kernel.RowInt8, Partial}.String())
	_, err := ParseWire("fp8", "expert")
	require.EqualError(t, err, `wire: row format "fp8": want one of ["f32" "bf16" "int8"]`)
	_, err = ParseWire("f32", "node")
	require.EqualError(t, err, `combine: way to combine "node": want one of ["expert" "partial"]`)
	_, err = wireOf(0x13)
	require.EqualError(t, err, "rows travel in the unknown format 3, or are combined in the unknown way 1")
}
