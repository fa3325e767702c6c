package cluster

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n/m2ntest"
)

// meeting is a registry of two expert nodes and an attention node, all of them ready.
func meeting(t *testing.T) (*Registry, time.Time) {
	r, now := NewRegistry(identity, Settings{ExpertNodes: 2, MicroBatches: 1}, time.Second), time.Unix(0, 0)
	for i, role := range []Role{Expert, Expert, Attention} {
		addr := []string{"tcp:10.0.0.2:7001", "shm+tcp:10.0.0.3:7001", "tcp:10.0.0.1:7001"}[i]
		m, err := r.Join(Hello{Role: role, Addr: addr, Identity: identity, Place: AnyPlace}, now)
		require.NoError(t, err)
		require.NoError(t, r.Ready(m.ID, 0, now))
	}
	return r, now
}

// TestClusterSaysWhichPairFails: nodes that are all there and do not reach each other
// are no cluster that serves, and it says which they are.
func TestClusterSaysWhichPairFails(t *testing.T) {
	r, now := meeting(t)
	require.Equal(t, "no attention node has reached all expert nodes yet", r.View().Missing())
	require.NoError(t, r.Reach("attention-0", []Unreached{{Expert: "expert-1", Reason: "connection refused"}}, now))
	want := "no attention node has reached all expert nodes: attention-0 cannot reach expert-1 at 10.0.0.3:7001: connection refused"
	require.Equal(t, want, r.View().Missing())
	require.Len(t, r.View().UnreachedBy("expert-1"), 1)
	require.Empty(t, r.View().UnreachedBy("expert-0"))

	version := r.View().Version
	require.NoError(t, r.Reach("attention-0", []Unreached{{Expert: "expert-1", Reason: "connection refused"}}, now))
	require.Equal(t, version, r.View().Version, "nothing new")
	require.NoError(t, r.Reach("attention-0", nil, now))
	require.Empty(t, r.View().Missing())
	require.Empty(t, r.View().Unreached)
	require.Greater(t, r.View().Version, version)
}

// TestOneAttentionNodeThatReachesAllServes: another one that does not is no reason to
// refuse requests.
func TestOneAttentionNodeThatReachesAllServes(t *testing.T) {
	r, now := meeting(t)
	other, err := r.Join(Hello{Role: Attention, Addr: "tcp:x:1", Identity: identity, Place: AnyPlace}, now)
	require.NoError(t, err)
	require.NoError(t, r.Ready(other.ID, 0, now))
	require.NoError(t, r.Reach("attention-0", nil, now))
	require.NoError(t, r.Reach(other.ID, []Unreached{{Expert: "expert-0", Reason: "no answer in time"}}, now))
	require.Empty(t, r.View().Missing())
	require.Len(t, r.View().Unreached, 1)
}

// TestNewExpertNodeHasToBeReached: what attention nodes have reached was another one.
func TestNewExpertNodeHasToBeReached(t *testing.T) {
	r, now := meeting(t)
	require.NoError(t, r.Reach("attention-0", []Unreached{{Expert: "expert-1", Reason: "x"}}, now))
	require.True(t, r.Leave("expert-1"))
	require.Empty(t, r.View().Unreached, "of one that has left nothing is said")
	require.NoError(t, r.Reach("attention-0", []Unreached{{Expert: "expert-1", Reason: "x"}}, now))
	require.Empty(t, r.View().Unreached)
	require.NoError(t, r.Reach("attention-0", nil, now))
	again, err := r.Join(Hello{Role: Expert, Addr: "tcp:y:1", Identity: identity, Place: AnyPlace}, now)
	require.NoError(t, err)
	require.NoError(t, r.Ready(again.ID, 0, now))
	require.Equal(t, "no attention node has reached all expert nodes yet", r.View().Missing())
	require.NoError(t, r.Reach("attention-0", nil, now))
	require.Empty(t, r.View().Missing())
}

// TestNodesSayOfPeersWhatIsBounded: a reason reaches clients and terminals.
func TestNodesSayOfPeersWhatIsBounded(t *testing.T) {
	r, now := meeting(t)
	require.NoError(t, r.Reach("attention-0",
		[]Unreached{{Expert: "expert-0", Reason: "\x1b[2J\n\xff" + strings.Repeat("é", 1000)}}, now))
	reason := r.View().Unreached[0].Reason
	require.LessOrEqual(t, len(reason), maxReason)
	require.NotContains(t, reason, "\x1b")
	require.NotContains(t, reason, "\n")
	require.ErrorContains(t, r.Reach("attention-0", make([]Unreached, 3), now), "3 expert nodes, the cluster has 2")
	require.ErrorContains(t, r.Reach("expert-0", nil, now), "no attention node")
	require.ErrorContains(t, r.Reach("attention-9", nil, now), "not a member")
	loads, err := r.Join(Hello{Role: Attention, Addr: "tcp:x:1", Identity: identity, Place: AnyPlace}, now)
	require.NoError(t, err)
	require.ErrorContains(t, r.Reach(loads.ID, nil, now), "is not ready")
	said := unreachedToProto([]Unreached{{Expert: "expert-0", Reason: strings.Repeat("x", 1<<20)}})
	require.LessOrEqual(t, len(said[0].GetReason()), maxReason,
		"a front end would refuse the message, and the node with it")
	many := View{}
	for range 10 {
		many.Unreached = append(many.Unreached, Unreached{Attention: "a", Expert: "b", Reason: "c"})
	}
	require.Contains(t, many.DescribeAll(many.Unreached), "and 7 pairs more")
}

// TestHalfOpenConnectionIsLeft: the network forgets a connection without a word, and
// new ones are passed on. A session ends within its timeout, and another client joins;
// the same client does once it has found out that nobody answers its pings.
func TestHalfOpenConnectionIsLeft(t *testing.T) {
	t.Parallel() // most of its time is waiting
	const timeout = 500 * time.Millisecond
	server, url := front(t, timeout)
	proxy, err := m2ntest.NewProxy(strings.TrimPrefix(url, "http://"))
	require.NoError(t, err)
	defer proxy.Close()
	url = "http://" + strings.TrimPrefix(proxy.Addr(), "tcp:")
	client := NewHTTPClient(timeout, nil)
	defer client.CloseIdleConnections()
	hello := Hello{Role: Attention, Addr: "tcp:a:1", Identity: identity, Place: AnyPlace}
	s, err := Join(t.Context(), client, url, hello, timeout)
	require.NoError(t, err)
	defer s.Close()
	proxy.SetOf(0, m2ntest.ToTarget, m2ntest.Drop)
	proxy.SetOf(0, m2ntest.FromTarget, m2ntest.Drop)
	for err == nil {
		_, err = s.Next(t.Context())
	}
	require.ErrorContains(t, err, "nothing heard of the front end")

	fresh := NewHTTPClient(timeout, nil)
	defer fresh.CloseIdleConnections()
	other, err := Join(t.Context(), fresh, url, hello, timeout)
	require.NoError(t, err)
	defer other.Close()
	require.Eventually(t, func() bool {
		again, err := Join(t.Context(), client, url, hello, timeout)
		if err == nil {
			again.Close()
		}
		return err == nil
	}, 20*time.Second, time.Millisecond, "the old client still tries its dead connection")
	require.Eventually(t, func() bool {
		v, _ := server.View()
		_, ok := v.Find(s.Self.ID)
		return !ok
	}, 5*time.Second, time.Millisecond)
}
