package m2n

import (
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// laneHost is an endpoint "e" that knows a peer x and has the first of several connections
// of x, and a pair of e with another peer c.
type laneHost struct {
	t     *testing.T
	e, c  *Endpoint
	addr  string
	first *stranger
	token string
}

var ofX = pairID{From: "x", FromEpoch: 3, To: "e"}

func newLaneHost(t *testing.T, lanes int) *laneHost {
	t.Helper()
	e := endpoint(t, Config{ID: "e", DialTimeout: slowness * time.Second})
	c := endpoint(t, Config{ID: "c"})
	h := &laneHost{t: t, e: e, c: c, addr: listen(t, e, "tcp:127.0.0.1:0")}
	require.NoError(t, e.SetPeer("x", "", 3))
	require.NoError(t, e.SetPeer("c", listen(t, c, "tcp:127.0.0.1:0"), 0))
	require.NoError(t, c.SetPeer("e", "", 0))
	transfer(t, e, c)
	h.open(lanes)
	return h
}

// open makes the first connection of x.
func (h *laneHost) open(lanes int) {
	h.t.Helper()
	h.first = dialLane(h.t, h.addr, ofX, func(g *greeting) { g.Lanes = lanes })
	welcome, err := h.first.readGreeting(wire.Welcome)
	require.NoError(h.t, err)
	require.Equal(h.t, lanes, welcome.Lanes)
	require.NotEmpty(h.t, welcome.Token)
	h.token = welcome.Token
}

// join makes a further connection of x.
func (h *laneHost) join(token string, lane int) *stranger {
	h.t.Helper()
	return dialLane(h.t, h.addr, ofX, func(g *greeting) { g.Token, g.Lane = token, lane })
}

func (h *laneHost) ready() {
	h.t.Helper()
	_, err := h.first.readGreeting(wire.Ready)
	require.NoError(h.t, err)
	require.Equal(h.t, "up", h.e.Stats()[1].State)
}

// refusal returns the refusal that comes on the first connection in the end. The pair with
// x is not up, and the pair with c is not touched.
func (h *laneHost) refusal() error {
	h.t.Helper()
	_, err := h.first.readGreeting(wire.Ready)
	require.ErrorIs(h.t, err, ErrRefused)
	require.Equal(h.t, "idle", h.e.Stats()[1].State)
	transfer(h.t, h.e, h.c)
	return err
}

func TestPartyTakesItsOwnOnly(t *testing.T) {
	t.Parallel()
	h := newLaneHost(t, 3)
	require.ErrorContains(t, h.join("wrong", 1).refused(), "the connection belongs to none that is being made")
	h.join(h.token, 2)
	require.ErrorContains(t, h.join(h.token+"x", 1).refused(), "belongs to none")
	h.join(h.token, 1)
	h.ready()
	require.ErrorContains(t, h.join(h.token, 1).refused(), "belongs to none", "it is over")
	transfer(t, h.e, h.c)
}

func TestPartyRefusesALaneThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		lanes []int
		want  string
	}{
		{"twice", []int{1, 1}, "lane 1 came twice, or is not one of 3"},
		{"the first", []int{0}, "lane 0 came twice"},
		{"beyond the last", []int{3}, "lane 3 came twice, or is not one of 3"},
		{"below the first", []int{-1}, "lane -1 came twice, or is not one of 3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newLaneHost(t, 3)
			var joined []*stranger
			for _, lane := range tc.lanes {
				joined = append(joined, h.join(h.token, lane))
			}
			require.ErrorContains(t, h.refusal(), tc.want)
			for _, s := range joined { // e keeps none of them
				_, err := io.ReadAll(s.conn)
				require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
			}
			h.open(2)
			h.join(h.token, 1)
			h.ready()
		})
	}
}

// TestPendingLinkThatStaysIncomplete: e refuses it before x gives up.
func TestPendingLinkThatStaysIncomplete(t *testing.T) {
	t.Parallel()
	h := newLaneHost(t, 3)
	h.join(h.token, 1)
	begin := time.Now()
	require.ErrorContains(t, h.refusal(), "connection 3 of 3: waiting for it: context deadline exceeded")
	require.Less(t, time.Since(begin), atLast)
	h.open(1)
	h.ready()
}

// TestBreachesOnSeveralConnections: frames that a connection must not carry, or not twice.
func TestBreachesOnSeveralConnections(t *testing.T) {
	t.Parallel()
	message := wire.Frame{Kind: wire.Data, Epoch: 3, Number: 1}
	for _, tc := range []struct {
		name string
		send []int // messages, by connection
		want string
	}{
		{"a message on the lane of credits", []int{0}, "frame 1: bad frame: a message on the lane of credits"},
		{"a message twice", []int{1, 2}, "it is message 1, the last one was 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newLaneHost(t, 3)
			lanes := []*stranger{h.first, h.join(h.token, 1), h.join(h.token, 2)}
			h.ready()
			for _, i := range tc.send {
				lanes[i].send(message, "")
			}
			lost := requireLost(t, h.e, "x")
			require.ErrorIs(t, lost, ErrBadFrame)
			require.ErrorContains(t, lost, tc.want)
			transfer(t, h.e, h.c)
		})
	}
}
