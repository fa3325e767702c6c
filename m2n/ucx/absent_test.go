//go:build !ucx || !cgo

package ucx

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAbsent: a program without UCX says how to get it.
func TestAbsent(t *testing.T) {
	require.ErrorIs(t, Available(), ErrNotBuilt)
	f, err := Open(Config{})
	require.ErrorIs(t, err, ErrNotBuilt)
	require.Nil(t, f)
	require.ErrorContains(t, err, "-tags ucx")
}
