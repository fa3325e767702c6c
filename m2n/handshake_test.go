package m2n

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

func sampleGreeting() greeting {
	return greeting{pairID: pairID{From: "a", FromEpoch: 1, To: "b", ToEpoch: 2}, Slots: 8, SlotBytes: 1 << 20, HeaderBytes: 64 << 10,
		PeerTimeout: time.Second, Lanes: 2, Token: "token"}
}

func TestGreetingRefusesWhatConfigWould(t *testing.T) {
	for _, tc := range []struct {
		change func(*greeting)
		want   string
	}{
		{func(g *greeting) { g.Slots = 0 }, "Config.Slots is 0, want 1 to 65536"},
		{func(g *greeting) { g.SlotBytes = -1 }, "Config.SlotBytes is -1"},
		{func(g *greeting) { g.HeaderBytes = 1 << 40 }, "Config.HeaderBytes is 1099511627776"},
		{func(g *greeting) { g.PeerTimeout = 0 }, "Config.PeerTimeout is 0"},
		{func(g *greeting) { g.Slots = 1<<16 + 1 }, "Config.Slots is 65537, want 1 to 65536"},
		{func(g *greeting) { g.From = "" }, "Config.ID has 0 bytes"},
		{func(g *greeting) { g.From = strings.Repeat("a", maxID+1) }, "Config.ID has 256 bytes, want 1 to 255"},
		{func(g *greeting) { g.Fabric = &fabricGreeting{} }, "the name of its fabric has 0 bytes, want 1 to 255"},
		{func(g *greeting) { g.Fabric = &fabricGreeting{Name: strings.Repeat("a", maxID+1)} }, "the name of its fabric has 256 bytes"},
		{func(g *greeting) { g.Fabric = &fabricGreeting{Name: "toy", Address: zeros(maxFabricAddress + 1)} },
			"the address of its fabric has 2049 bytes, the limit is 2048"},
	} {
		g := sampleGreeting()
		tc.change(&g)
		b, err := json.Marshal(g)
		require.NoError(t, err)
		_, err = parseGreeting(b)
		require.ErrorIs(t, err, ErrBadFrame)
		require.ErrorContains(t, err, tc.want)
	}
}

// TestControlFramesFit: whatever bytes ids and reasons consist of, both ends accept them.
func TestControlFramesFit(t *testing.T) {
	wild := strings.Repeat("\x00", maxID)
	g := sampleGreeting()
	g.From, g.To, g.FromEpoch, g.ToEpoch = wild, wild, 1<<63, 1<<63
	long := errors.New(strings.Repeat("\x01é", 10_000))
	for _, what := range []any{g, refusalOf(long), goodbyeOf(fmt.Errorf("%w: %w", ErrBadFrame, long))} {
		b, err := json.Marshal(what)
		require.NoError(t, err)
		require.LessOrEqual(t, len(b), wire.ControlBytes)
	}
}

func TestFarewellsKeepTheirCause(t *testing.T) {
	for _, cause := range knownCauses {
		told := goodbyeOf(fmt.Errorf("because: %w", cause)).asCause()
		require.ErrorIs(t, told, cause)
		require.EqualError(t, told, "the peer says: because: "+cause.Error())
	}
	require.EqualError(t, goodbyeOf(errors.New("other")).asCause(), "the peer says: other")
}

// FuzzControlTexts: whatever a peer sends as a reason becomes an error of bounded length,
// without characters that control a terminal.
func FuzzControlTexts(f *testing.F) {
	f.Add([]byte(`{"reason":"\u001b[2J\u0007no","cause":"endpoint closed","temporary":true}`))
	f.Add([]byte(`{"reason":"` + strings.Repeat("é", wire.ControlBytes) + `"}`))
	f.Add([]byte(`{"reason":1}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > wire.ControlBytes {
			return // longer ones are refused before they are read
		}
		texts := []string{parseRefusal(in).Error()}
		if cause, err := parseGoodbye(in); err == nil {
			texts = append(texts, cause.Error())
		}
		for _, text := range texts {
			require.LessOrEqual(t, len(text), wire.ControlBytes)
			require.NotContains(t, text, "\x1b")
		}
		if r := new(refusal); errors.As(parseRefusal(in), &r) {
			require.NotContains(t, r.Reason, "\n")
			require.LessOrEqual(t, len(r.Reason), wire.ControlBytes/8+len("…"))
		}
	})
}

// TestReasonsDoNothingToATerminal: a mark stands for each character of a peer's text that
// is not printable.
func TestReasonsDoNothingToATerminal(t *testing.T) {
	const wild = "\x1b]0;title\aline\nnext \u202e"
	const want = "\ufffd]0;title\ufffdline\ufffdnext \ufffd"
	require.EqualError(t, goodbye{Reason: wild}.asCause(), "the peer says: "+want)
	b, err := json.Marshal(refusal{Reason: wild, Temporary: true})
	require.NoError(t, err)
	require.Equal(t, &refusal{want, true}, parseRefusal(b))
}

// FuzzGreeting: a greeting that is accepted is within bounds, and encodes to the same
// meaning.
func FuzzGreeting(f *testing.F) {
	good, err := json.Marshal(sampleGreeting())
	require.NoError(f, err)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte(`{"slots":1e99}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		g, err := parseGreeting(in)
		if err != nil {
			return
		}
		require.LessOrEqual(t, g.SlotBytes, maxBytes)
		again, err := json.Marshal(g)
		require.NoError(t, err)
		back, err := parseGreeting(again)
		require.NoError(t, err)
		require.Equal(t, g, back)
		once, err := json.Marshal(back)
		require.NoError(t, err)
		require.True(t, bytes.Equal(again, once))
	})
}
