package completion

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// slowStop reads a text by characters and ends at the first stop string; of
// several that end there, at the longest. It returns what comes before.
func slowStop(text string, stops []string) (before, stop string) {
	for end := 1; end <= len(text); end++ {
		for _, s := range stops {
			if strings.HasSuffix(text[:end], s) && len(s) > len(stop) {
				stop = s
			}
		}
		if stop != "" {
			return text[:end-len(stop)], stop
		}
	}
	return text, ""
}

// mayBegin says whether an end of the text could go on to be a stop string.
func mayBegin(end string, stops []string) bool {
	for _, s := range stops {
		if len(end) < len(s) && strings.HasPrefix(s, end) {
			return true
		}
	}
	return false
}

// TestStopFinder: however a text is cut into pieces, what is shown in the end is
// what the slow version shows; on the way nothing is shown that is taken back,
// and nothing is held back without need.
func TestStopFinder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.StringMatching(`[abc]{0,12}`)
		stops := rapid.SliceOfN(rapid.StringMatching(`[abc]{1,4}`), 0, 4).Draw(t, "stops")
		pieces := rapid.SliceOf(letters).Draw(t, "pieces")
		want, wantStop := slowStop(strings.Join(pieces, ""), stops)

		f := stopFinder{stops: stops}
		var shown, stop string
		for i, p := range pieces {
			var more string
			more, stop = f.push(p, true)
			shown += more
			if stop != "" {
				break
			}
			read := strings.Join(pieces[:i+1], "")
			require.Equal(t, read, shown+f.held)
			require.True(t, f.held == "" || mayBegin(f.held, stops), "%q is held back", f.held)
			for at := range len(shown) {
				require.False(t, mayBegin(read[at:], stops), "%q is shown", read[at:])
			}
		}
		if stop == "" {
			shown += f.flush()
		}
		require.Equal(t, wantStop, stop)
		require.Equal(t, want, shown)
	})
}

// TestStopFinderPassesOver: a stop string that ends where none is looked for is
// text, and one that only begins there is found.
func TestStopFinderPassesOver(t *testing.T) {
	f := stopFinder{stops: []string{"ab", "bc"}}
	shown, stop := f.push("ab", false)
	require.Equal(t, "a", shown)
	require.Empty(t, stop)
	shown, stop = f.push("c", true)
	require.Empty(t, shown)
	require.Equal(t, "bc", stop)
}
