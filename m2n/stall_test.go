package m2n

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// TestStallDetector: when a frame counts as stuck, check by check.
func TestStallDetector(t *testing.T) {
	const limit, least = time.Second, 100
	body := func(seq uint64, lacks int) wire.Position {
		return wire.Position{Part: wire.PartBody, Seq: seq, Missing: lacks, Of: 1000}
	}
	rest := wire.Position{Part: wire.PartFixed, Missing: wire.FixedBytes, Of: wire.FixedBytes}
	start := wire.Position{Part: wire.PartFixed, Missing: 10, Of: wire.FixedBytes}
	type step struct {
		at    time.Duration
		bytes int
		now   wire.Position
		stuck string
	}
	for name, steps := range map[string][]step{
		"nothing begins": {{0, 0, rest, ""}, {5 * limit, 0, rest, ""}, {9 * limit, 0, rest, ""}},
		"it stops": {{limit, 30, body(1, 900), ""}, {2 * limit, 0, body(1, 900), ""}, {2*limit + 1, 0, body(1, 900), ""},
			{3 * limit, 0, body(1, 900), "900 of 1000 bytes of the body of frame 1 are missing, and 0 bytes came in 2s: at least 100 should within 1s"}},
		"keep-alives fill it": {{limit, 30, body(1, 900), ""}, {2*limit + 1, 64, body(1, 836), ""}, {3 * limit, 36, body(1, 801), ""},
			{4*limit + 1, 99, body(1, 702), ""}, {5 * limit, 0, body(1, 702), "702 of 1000 bytes of the body of frame 1"}},
		"it gets on":           {{limit, 30, body(1, 900), ""}, {2 * limit, 100, body(1, 800), ""}, {3 * limit, 100, body(1, 700), ""}, {4 * limit, 100, body(1, 600), ""}},
		"small frames follow":  {{limit, 3, body(1, 1), ""}, {2 * limit, 3, body(2, 1), ""}, {3 * limit, 3, body(3, 1), ""}, {5 * limit, 3, body(4, 1), ""}},
		"the first one begins": {{limit / 2, 54, start, ""}, {limit, 0, start, ""}, {limit + 1, 0, start, ""}, {limit + 2, 0, start, "10 of 64 bytes of the frame after frame 0"}},
		"the reader is late":   {{limit, 0, body(1, 900), ""}, {9 * limit, 0, body(1, 900), ""}, {10 * limit, 200, body(1, 700), ""}, {11 * limit, 0, rest, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			var a stallDetector
			a.start(0, rest)
			for i, s := range steps {
				a.record(s.bytes, s.now)
				err := a.check(s.at, limit, least)
				if s.stuck == "" {
					require.NoError(t, err, "step %d", i)
					continue
				}
				require.ErrorIs(t, err, ErrSilent)
				require.ErrorContains(t, err, s.stuck)
			}
		})
	}
}
