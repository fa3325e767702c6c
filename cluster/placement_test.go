package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/tandemv1"
)

// placing is a registry of two places for experts at which placement 1 is proposed.
type placing struct {
	*Registry
	t   *testing.T
	now time.Time
}

func newPlacing(t *testing.T) *placing {
	t.Helper()
	settings := Settings{ExpertNodes: 2, MicroBatches: 1}
	p := &placing{Registry: NewRegistry(identity, settings, time.Second), t: t, now: time.Unix(0, 0)}
	p.propose("one")
	return p
}

func (p *placing) propose(experts string) uint64 {
	p.t.Helper()
	version, err := p.Propose([]byte(experts))
	require.NoError(p.t, err)
	return version
}

func (p *placing) join(role Role) string {
	p.t.Helper()
	m, err := p.Join(Hello{Role: role, Addr: "tcp:x:1", Identity: identity, Place: AnyPlace}, p.now)
	require.NoError(p.t, err)
	return m.ID
}

// is compares the current placement, the next one, and what keeps a version from being
// all that is used.
func (p *placing) is(current, next, version uint64, pending string) {
	p.t.Helper()
	v := p.View()
	require.NoError(p.t, checkView(v))
	require.Equal(p.t, v, viewFromProto(viewToProto(v)), "what members hear")
	require.Equal(p.t, [2]uint64{current, next}, [2]uint64{v.Placement.Version, v.Next.Version})
	require.Equal(p.t, pending, v.Pending(version))
}

// TestPlacementIsHeldBeforeItIsUsed follows the first placement and the second one.
func TestPlacementIsHeldBeforeItIsUsed(t *testing.T) {
	p := newPlacing(t)
	p.is(0, 1, 1, "2 of 2 expert nodes are missing")
	e0, a0 := p.join(Expert), p.join(Attention)
	require.NoError(t, p.Ready(e0, 1, p.now))
	require.NoError(t, p.Ready(a0, 0, p.now))
	p.is(0, 1, 1, "1 of 2 expert nodes are missing")
	e1 := p.join(Expert)
	p.is(0, 1, 1, "it is not held yet by [expert-1]")
	require.NoError(t, p.Ready(e1, 1, p.now))
	p.is(1, 0, 1, "an older one is used by [attention-0]")
	require.NoError(t, p.Placed(a0, 1, p.now))
	p.is(1, 0, 1, "")
	require.Equal(t, "one", string(p.View().Placement.Experts))

	require.EqualValues(t, 2, p.propose("two"))
	a1 := p.join(Attention) // it splits rows by the placement of its first view, or a later one
	p.is(1, 2, 2, "it is not held yet by [expert-0 expert-1]")
	require.False(t, p.View().Left(1))
	require.NoError(t, p.Ready(e1, 2, p.now))
	require.NoError(t, p.Ready(e0, 2, p.now))
	p.is(2, 0, 2, "an older one is used by [attention-0 attention-1]")
	require.NoError(t, p.Placed(a0, 2, p.now))
	p.is(2, 0, 2, "an older one is used by [attention-1]")
	require.False(t, p.View().Left(1), "one attention node may still use it")
	p.Leave(a1)
	p.is(2, 0, 2, "")
	require.True(t, p.View().Left(1))
	require.False(t, p.View().Left(2))
}

// TestProposalIsGivenUp: a placement that is proposed before the one before is current
// takes its place, and a node that tells of the one before is not wrong.
func TestProposalIsGivenUp(t *testing.T) {
	p := newPlacing(t)
	e0, e1 := p.join(Expert), p.join(Expert)
	require.EqualValues(t, 2, p.propose("two"))
	p.is(0, 2, 1, "it was given up for placement 2")
	given, err := p.Proposed(1)
	require.NoError(t, err)
	require.Equal(t, Placement{Version: 1}, given, "nobody judges it any more")
	require.NoError(t, p.Ready(e0, 1, p.now))
	require.NoError(t, p.Ready(e1, 2, p.now))
	p.is(0, 2, 2, "it is not held yet by [expert-0]")
	require.NoError(t, p.Ready(e0, 2, p.now))
	p.is(2, 0, 2, "")
	p.is(2, 0, 1, "it was given up for placement 2")
}

// TestNodeThatJoinsDuringAChange holds the placement in use, and then the next one.
func TestNodeThatJoinsDuringAChange(t *testing.T) {
	p := newPlacing(t)
	e0, e1 := p.join(Expert), p.join(Expert)
	require.NoError(t, p.Ready(e0, 1, p.now))
	require.NoError(t, p.Ready(e1, 1, p.now))
	p.propose("two")
	require.NoError(t, p.Ready(e0, 2, p.now))
	p.Remove(e1, "it is lost")
	p.is(1, 2, 2, "1 of 2 expert nodes are missing")
	e2 := p.join(Expert)
	require.NoError(t, p.Ready(e2, 1, p.now))
	p.is(1, 2, 2, "it is not held yet by ["+e2+"]")
	require.NoError(t, p.Ready(e2, 2, p.now))
	p.is(2, 0, 2, "")
}

func TestPlacementFaultsAreNamed(t *testing.T) {
	p := newPlacing(t)
	e0, a0 := p.join(Expert), p.join(Attention)
	large := make([]byte, tandemv1.MaxPlacement+1)
	twice := View{Placement: Placement{Version: 2}, Next: Placement{Version: 2}}
	for want, err := range map[string]error{
		"a placement of 0 bytes, want 1 to 524288":                       second(p.Propose(nil)),
		"a placement of 524289 bytes, want 1 to 5":                       second(p.Propose(large)),
		"placement 2 has not been proposed, the last one is 1":           second(p.Proposed(2)),
		"placement 0 has not been proposed":                              second(p.Proposed(0)),
		"node expert-0 is no attention node, and tells by which":         p.Placed(e0, 1, p.now),
		"node attention-0 splits rows by placement 1, the cluster by 0":  p.Placed(a0, 1, p.now),
		"the view has placement 2 follow placement 2":                    checkView(twice),
		"node expert-7 is not a member":                                  p.Ready("expert-7", 1, p.now),
		"Placement.experts is 0, want 1 to 524288 (60 layers of 256 exp": tandemv1.Check(&tandemv1.Placement{Version: 1}),
	} {
		require.ErrorContains(t, err, want)
	}
}

func second[T any](_ T, err error) error { return err }

// placements is a Judge that wants as digests the bytes of the placement.
type placements struct{}

func (placements) Weights(_ Member, p Placement) int { return len(p.Experts) }

func (placements) Compare(_ context.Context, _ Member, p Placement, digests []uint64) error {
	for i, d := range digests {
		if d != uint64(p.Experts[i]) {
			return fmt.Errorf("digest %d of placement %d is %d", i, p.Version, d)
		}
	}
	return nil
}

// TestEachPlacementIsJudged: what a node has loaded for one placement after another is
// held against each, also where one is given up meanwhile.
func TestEachPlacementIsJudged(t *testing.T) {
	server, url := front(t, time.Second)
	server.Judge = placements{}
	client := NewHTTPClient(time.Second, nil)
	defer client.CloseIdleConnections()
	hello := Hello{Role: Expert, Addr: "tcp:127.0.0.1:7002", Identity: identity, Place: AnyPlace}
	e, err := Join(t.Context(), client, url, hello, time.Second)
	require.NoError(t, err)
	defer e.Close()
	holds := func(version uint64) {
		until(t, e, func(v View) bool { return v.Members[0].Placement == version })
	}
	require.NoError(t, e.Weights(1, []uint64{1}))
	require.NoError(t, e.Ready(1))
	holds(1)
	for _, experts := range []byte{7, 8} {
		_, err := server.Propose([]byte{experts, experts})
		require.NoError(t, err)
	}
	require.NoError(t, e.Weights(2, []uint64{9, 9, 9}), "it has been given up: nobody looks")
	require.NoError(t, e.Ready(2))
	holds(2)
	require.NoError(t, e.Weights(3, []uint64{8, 8}))
	require.NoError(t, e.Ready(3))
	holds(3)
	_, err = server.Propose([]byte{9})
	require.NoError(t, err)
	require.NoError(t, e.Weights(4, []uint64{8}))
	require.NoError(t, e.Ready(4))
	require.ErrorContains(t, end(t, e), "digest 0 of placement 4 is 8")
}

func ready(placement uint64) func(s *Session) error {
	return func(s *Session) error { return s.Ready(placement) }
}

func places(placement uint64) func(s *Session) error {
	return func(s *Session) error { return s.Placed(placement) }
}

// TestWeightsOfOtherPlacementsAreRefused: what no node of this version says.
func TestWeightsOfOtherPlacementsAreRefused(t *testing.T) {
	for want, c := range map[string]struct {
		role Role
		say  func(s *Session) error
	}{
		"placement 5 has not been proposed, the last one is 1": {Expert, ready(5)},
		"placement 0 has not been proposed":                    {Expert, ready(0)},
		"tells of weights by placement 1":                      {Attention, ready(1)},
		"splits rows by placement 1, the cluster by 0":         {Attention, places(1)},
		"Placed.placement is 0, want 1":                        {Attention, places(0)},
	} {
		_, url := front(t, time.Second)
		client := NewHTTPClient(time.Second, nil)
		hello := Hello{Role: c.role, Addr: "tcp:127.0.0.1:7002", Identity: identity, Place: AnyPlace}
		s, err := Join(t.Context(), client, url, hello, time.Second)
		require.NoError(t, err)
		require.NoError(t, c.say(s))
		err = end(t, s)
		require.ErrorContains(t, err, want)
		require.NotEqual(t, connect.CodeUnknown, connect.CodeOf(err))
		s.Close()
		client.CloseIdleConnections()
	}
}
