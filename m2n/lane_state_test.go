package m2n

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLaneStates holds every pair of state and event to the table in laneState's
// comment: those that are not in it panic.
func TestLaneStates(t *testing.T) {
	type step struct {
		from laneState
		on   laneEvent
	}
	type outcome struct {
		to laneState
		do laneAction
	}
	legal := map[step]outcome{
		{laneOpening, laneOpened}:   {laneIdle, doNothing},
		{laneOpening, lanePairDown}: {laneDoomed, doNothing},
		{laneDoomed, laneOpened}:    {laneClosing, closeBye},
		{laneIdle, laneBegun}:       {laneWriting, doNothing},
		{laneIdle, lanePairDown}:    {laneClosing, closeBye},
		{laneWriting, laneWritten}:  {laneIdle, doNothing},
		{laneWriting, laneFailed}:   {laneClosing, closeCut},
		{laneWriting, lanePairDown}: {laneAborting, shutDownSocket},
		{laneAborting, laneWritten}: {laneClosing, closeCut},
		{laneAborting, laneFailed}:  {laneClosing, closeCut},
		{laneClosing, lanePairDown}: {laneClosing, doNothing},
	}
	for from := range laneStates {
		for on := range laneEvents {
			want, ok := legal[step{from, on}]
			if !ok {
				require.PanicsWithValue(t, `m2n: lane: event "`+on.String()+`" in state "`+from.String()+`"`, func() { from.after(on) })
				continue
			}
			to, do := from.after(on)
			require.Equal(t, want, outcome{to, do}, "%v on %v", from, on)
		}
	}
}

// TestLaneClosesOnce: on every way through the table, of events as they can come, the
// connection is closed exactly once, and no batch begins after the pair is down.
func TestLaneClosesOnce(t *testing.T) {
	ends := 0
	var walk func(s laneState, closes int, down bool, steps int)
	walk = func(s laneState, closes int, down bool, steps int) {
		require.LessOrEqual(t, closes, 1)
		if steps == 0 {
			return
		}
		for on := range laneEvents {
			if laneTable[s][on] == nil || on == lanePairDown && down || on == laneBegun && down {
				continue
			}
			to, do := s.after(on)
			n := closes
			if do == closeCut || do == closeBye {
				n++
			}
			isDown := down || on == lanePairDown
			if to == laneClosing && isDown {
				ends++
				require.Equal(t, 1, n)
			}
			walk(to, n, isDown, steps-1)
		}
	}
	walk(laneOpening, 0, false, 8)
	require.NotZero(t, ends)
}
