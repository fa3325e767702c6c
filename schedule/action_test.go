package schedule

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestActionText(t *testing.T) {
	for word, a := range map[string]Action{
		"A3F2":      {Part: Attention, Layer: 3, Direction: Forward, MicroBatch: 2},
		"17:A3F2":   {Part: Attention, Layer: 3, Direction: Forward, MicroBatch: 2, Step: 17},
		"E0B0":      {Part: Experts, Direction: Backward},
		"E93W15":    {Part: Experts, Layer: 93, Direction: Weight, MicroBatch: 15},
		"HF4":       {Part: Head, Direction: Forward, MicroBatch: 4},
		"1:HB0":     {Part: Head, Direction: Backward, Step: 1},
		"A0F999999": {Part: Attention, Direction: Forward, MicroBatch: 999999},
	} {
		require.Equal(t, word, a.String())
		got, err := ParseAction(word)
		require.NoError(t, err)
		require.Equal(t, a, got)
	}
}

func TestActionErrors(t *testing.T) {
	for word, want := range map[string]string{
		"":                        "the part is missing, want one of AEH",
		"X3F2":                    "part 'X', want one of AEH",
		"3F2":                     "part '3', want one of AEH",
		"AF2":                     `the layer is missing, want a number before "F2"`,
		"A3":                      "the direction is missing, want one of FBW",
		"A3G2":                    "direction 'G', want one of FBW",
		"A3F":                     `the micro-batch is missing, want a number before ""`,
		"A3F2 ":                   `" " is left over`,
		"A03F2":                   `layer "03" begins with a zero`,
		"A3F-2":                   `the micro-batch is missing, want a number before "-2"`,
		"A3F٣":                    `the micro-batch is missing, want a number before "٣"`,
		"H3F2":                    "direction '3', want one of FBW",
		"0:A3F2":                  "step 0: steps count from 1",
		":A3F2":                   `the step is missing, want a number before ":A3F2"`,
		"1x:A3F2":                 `step 1 is followed by "x:A3F2", want ':'`,
		"A3F1073741824":           "micro-batch 1073741824 is above 1073741823",
		"A3F99999999999999999999": "micro-batch 99999999999999999999 is above 1073741823",
	} {
		_, err := ParseAction(word)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "action ")
	}
}

// TestUnknownLettersPrint: a broken action can be told apart in an error.
func TestUnknownLettersPrint(t *testing.T) {
	require.Equal(t, "?0?0?120?0", Action{Direction: 'x'}.String())
}

func anyAction(t *rapid.T) Action {
	a := Action{
		Part:       rapid.SampledFrom([]Part{Attention, Experts, Head}).Draw(t, "part"),
		Direction:  rapid.SampledFrom([]Direction{Forward, Backward, Weight}).Draw(t, "direction"),
		MicroBatch: rapid.IntRange(0, MaxNumber).Draw(t, "micro-batch"),
		Step:       rapid.IntRange(0, MaxNumber).Draw(t, "step"),
	}
	if a.Part != Head {
		a.Layer = rapid.IntRange(0, MaxNumber).Draw(t, "layer")
	}
	return a
}

func TestActionRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := anyAction(t)
		got, err := ParseAction(a.String())
		require.NoError(t, err)
		require.Equal(t, a, got)
	})
}

// FuzzParseAction: what is accepted prints as it was written.
func FuzzParseAction(f *testing.F) {
	for _, word := range []string{"A3F2", "17:A3F2", "HF0", "E1W", "0:A", "9999999999:A3F2", "A3F2:"} {
		f.Add(word)
	}
	f.Fuzz(func(t *testing.T, word string) {
		if a, err := ParseAction(word); err == nil && a.String() != word {
			t.Errorf("%q is read as %v", word, a)
		}
	})
}

// FuzzParse: a text that is accepted prints as one that means the same, and
// what it takes is bounded by its length.
func FuzzParse(f *testing.F) {
	for _, c := range goldenSchedules {
		s, err := PingPong(c)
		require.NoError(f, err)
		text := s.String()
		f.Add(text)
		f.Add(text[:len(text)/2])
		f.Add(text[:len(text)/3])
	}
	f.Add("schedule x # comment\nlayers 5\nsparse 1 3-4\nrank r owns A0-4/2 E1 H\n HB0 1:A0W1\n")
	f.Add("schedule x\nsparse 0\nlayers 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(s.String())
		require.NoError(t, err)
		require.Equal(t, s, again)
		require.LessOrEqual(t, s.Layers, MaxLayers)
		words := strings.Count(text, " ") + strings.Count(text, "\n") + len(strings.Fields(text))
		require.LessOrEqual(t, s.size(), words)
	})
}

// size is the number of ranks, actions and owned pieces.
func (s *Schedule) size() int {
	n := len(s.Ranks)
	for _, r := range s.Ranks {
		n += len(r.Actions) + len(r.Owns)
	}
	return n
}
