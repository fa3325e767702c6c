package completion

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// slowStop reads a text character by character up to the first end of a stop string;
// of several stop strings that end there it takes the longest. It returns the text
// before it.
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

// mayBegin says whether a stop string may begin in the text and end after it.
func mayBegin(end string, stops []string) bool {
	for _, s := range stops {
		if len(end) < len(s) && strings.HasPrefix(s, end) {
			return true
		}
	}
	return false
}

// TestStopFinder: however a text is cut into pieces, the finder shows the same text as
// the slow version. At no time has it shown a part of a stop string, or held back text
// that no stop string can begin in.
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

// TestStopFinderPassesOver: with search off, a stop string that ends in the piece is
// text; one that begins in the piece and ends in a later one is found.
func TestStopFinderPassesOver(t *testing.T) {
	f := stopFinder{stops: []string{"ab", "bc"}}
	shown, stop := f.push("ab", false)
	require.Equal(t, "a", shown)
	require.Empty(t, stop)
	shown, stop = f.push("c", true)
	require.Empty(t, shown)
	require.Equal(t, "bc", stop)
}
