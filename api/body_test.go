package api

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSmallBodiesHaveTheirShare: bodies that are large and slow, however many, leave a
// part of the memory to small ones.
func TestSmallBodiesHaveTheirShare(t *testing.T) {
	all := &budget{limit: 1 << 20}
	large, small := &lease{budget: all}, &lease{budget: all}
	require.Error(t, large.take(1<<20))
	require.NoError(t, large.take(1<<20-1<<20/reserved))
	require.Error(t, large.take(1))
	require.NoError(t, small.take(smallBody))
	require.Error(t, small.take(1), "it is large now")
	large.end()
	small.end()
	require.Zero(t, all.used.Load())
}
