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
)

func sampleGreeting() greeting {
	return greeting{hello: hello{From: "a", FromEpoch: 1, To: "b", ToEpoch: 2}, Slots: 8, SlotBytes: 1 << 20, HeaderBytes: 64 << 10,
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

// TestControlFramesFit: whatever ids and reasons hold, both ends accept them.
func TestControlFramesFit(t *testing.T) {
	wild := strings.Repeat("\x00", maxID)
	g := sampleGreeting()
	g.From, g.To, g.FromEpoch, g.ToEpoch = wild, wild, 1<<63, 1<<63
	long := errors.New(strings.Repeat("\x01é", 10_000))
	for _, what := range []any{g, refusalOf(long), farewellOf(fmt.Errorf("%w: %w", ErrBadFrame, long))} {
		b, err := json.Marshal(what)
		require.NoError(t, err)
		require.LessOrEqual(t, len(b), controlBytes)
	}
}

func TestFarewellsKeepTheirCause(t *testing.T) {
	for _, cause := range sentinels {
		told := farewellOf(fmt.Errorf("because: %w", cause)).told()
		require.ErrorIs(t, told, cause)
		require.EqualError(t, told, "the peer says: because: "+cause.Error())
	}
	require.EqualError(t, farewellOf(errors.New("other")).told(), "the peer says: other")
}

// FuzzGreeting: what is accepted is within bounds, and means the same once
// encoded again.
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
