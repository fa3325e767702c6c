package cluster

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var identity = Identity{Version: "v1", Model: "abc", Layers: 4, Experts: 8, TopK: 2, Numerics: "f32"}

func TestRegistryGivesPlacesAndEpochs(t *testing.T) {
	r := NewRegistry(identity, Settings{ExpertNodes: 2, MicroBatches: 1}, time.Second)
	now := time.Unix(0, 0)
	joinAt := func(role Role, place int) Member {
		m, err := r.Join(Hello{Role: role, Addr: "tcp:x:1", Identity: identity, Place: place}, now)
		require.NoError(t, err)
		return m
	}
	join := func(role Role) Member { return joinAt(role, AnyPlace) }
	e0, e1, a0 := join(Expert), join(Expert), join(Attention)
	require.Equal(t, []int{0, 1, 0}, []int{e0.Place, e1.Place, a0.Place})
	_, err := r.Join(Hello{Role: Expert, Addr: "tcp:y:1", Identity: identity, Place: AnyPlace}, now)
	require.ErrorContains(t, err, "all 2 places of expert nodes are taken")
	require.Equal(t, "no attention node is ready, 0 of 2 expert nodes are ready", r.View().Missing())
	version, err := r.Propose([]byte{1})
	require.NoError(t, err)
	for _, m := range []Member{e0, e1, a0} {
		require.NoError(t, r.Ready(m.ID, version, now))
	}
	require.Equal(t, "no attention node has reached all expert nodes yet", r.View().Missing(),
		"it has not reached the expert nodes")
	require.NoError(t, r.Reach(a0.ID, nil, now))
	require.Empty(t, r.View().Missing())

	require.NoError(t, r.Heard(e1.ID, now.Add(time.Second)))
	require.NoError(t, r.Heard(a0.ID, now.Add(time.Second)))
	require.Equal(t, []string{e0.ID}, r.Expire(now.Add(1500*time.Millisecond)))
	again := join(Expert)
	require.Equal(t, e0.Place, again.Place, "the free place is filled")
	require.NotEqual(t, e0.ID, again.ID)
	require.Greater(t, again.Epoch, a0.Epoch)
	require.Error(t, r.Ready(e0.ID, version, now))
	require.False(t, r.Leave(e0.ID))

	require.True(t, r.Leave(again.ID))
	require.True(t, r.Leave(e1.ID))
	require.Equal(t, 1, joinAt(Expert, 1).Place, "a node gets the place back that it had")
	require.Equal(t, 0, joinAt(Expert, 1).Place, "where it is free")
}

func TestIdentityMismatchNamesBothValues(t *testing.T) {
	other := identity
	other.Layers = 5
	_, err := NewRegistry(identity, Settings{ExpertNodes: 1},
		time.Second).Join(Hello{Role: Attention, Addr: "tcp:x:1", Identity: other}, time.Now())
	require.ErrorContains(t, err, "layers: the cluster has 4, the node 5")
}

func TestNodesInsistOnSettings(t *testing.T) {
	r := NewRegistry(identity, settings, time.Second)
	join := func(wire, combine string) error {
		_, err := r.Join(Hello{Role: Attention, Addr: "tcp:x:1", Identity: identity, Place: AnyPlace, Wire: wire,
			Combine: combine}, time.Now())
		return err
	}
	require.NoError(t, join("", ""))
	require.NoError(t, join("bf16", "partial"))
	require.ErrorContains(t, join("int8", ""), "wire: the cluster has bf16, the node int8")
	require.ErrorContains(t, join("", "expert"), "combine: the cluster has partial, the node expert")
}

// settings have a value of their own in each field.
var settings = Settings{ExpertNodes: 1, MicroBatches: 2, MaxModelLen: 3, MaxBatchedTokens: 4, Wire: "bf16",
	Combine: "partial"}

// front starts a front end and returns its address.
func front(t *testing.T, timeout time.Duration) (*Server, string) {
	s := NewServer(identity, settings, timeout)
	_, err := s.Propose([]byte{1})
	require.NoError(t, err)
	path, handler := s.Handler()
	require.Equal(t, "/tandem.v1.Membership/", path)
	web := httptest.NewUnstartedServer(handler)
	web.Config.Protocols, web.Config.ConnContext = Protocols(), ConnContext
	web.Listener = s.Bounded(web.Listener)
	web.Start()
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { s.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		run.Wait()
		web.CloseClientConnections()
		web.Close()
	})
	return s, web.URL
}

// until waits for a view that satisfies ok.
func until(t *testing.T, s *Session, ok func(View) bool) View {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for {
		v, err := s.Next(ctx)
		require.NoError(t, err)
		if ok(v) {
			return v
		}
	}
}

func TestNodesJoinAndSeeEachOther(t *testing.T) {
	server, url := front(t, time.Second)
	client := NewHTTPClient(time.Second, nil)
	defer client.CloseIdleConnections()
	a, err := Join(t.Context(), client, url, Hello{Role: Attention, Addr: "tcp:127.0.0.1:7001", Identity: identity,
		Place: AnyPlace}, time.Second)
	require.NoError(t, err)
	defer a.Close()
	e, err := Join(t.Context(), client, url, Hello{Role: Expert, Addr: "tcp:127.0.0.1:7002", Identity: identity,
		Place: AnyPlace}, time.Second)
	require.NoError(t, err)
	require.NoError(t, a.Ready(0))
	require.NoError(t, e.Ready(1))
	until(t, a, func(v View) bool { self, _ := v.Find(a.Self.ID); return self.Ready })
	require.NoError(t, a.Reach(nil))
	v := until(t, a, func(v View) bool { return v.Missing() == "" })
	require.Equal(t, "tcp:127.0.0.1:7002", v.Of(Expert)[0].Addr)
	require.Equal(t, settings, v.Settings)
	e.Close()
	until(t, a, func(v View) bool { return len(v.Of(Expert)) == 0 })
	v, _ = server.View()
	require.Len(t, v.Members, 1)
}

// TestRefusalTellsTheLog: a stranger hears nothing but that it differs, the front
// end's log has both values.
func TestRefusalTellsTheLog(t *testing.T) {
	server, url := front(t, time.Second)
	var log lockedBuffer
	server.Log = slog.New(slog.NewTextHandler(&log, nil))
	client := NewHTTPClient(time.Second, nil)
	defer client.CloseIdleConnections()
	other := identity
	other.Model = "xyz"
	_, err := Join(t.Context(), client, url, Hello{Role: Expert, Addr: "tcp:127.0.0.1:7002", Identity: other,
		Place: AnyPlace}, time.Second)
	require.ErrorContains(t, err, "the node differs from the cluster")
	require.NotContains(t, err.Error(), identity.Model)
	require.NotContains(t, err.Error(), "model")
	require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err))
	require.Contains(t, log.String(), "model: the cluster has abc, the node xyz")
	_, err = Join(t.Context(), client, url, Hello{Role: "router", Addr: "tcp:127.0.0.1:7002", Identity: identity,
		Place: AnyPlace}, time.Second)
	require.ErrorContains(t, err, `role "router"`)
}

// TestDrainingNodeIsSeen: everybody sees that a node is about to stop, and that
// the cluster takes no requests for lack of it.
func TestDrainingNodeIsSeen(t *testing.T) {
	server, url := front(t, time.Second)
	client := NewHTTPClient(time.Second, nil)
	defer client.CloseIdleConnections()
	a, err := Join(t.Context(), client, url, Hello{Role: Attention, Addr: "tcp:127.0.0.1:7001", Identity: identity,
		Place: AnyPlace}, time.Second)
	require.NoError(t, err)
	defer a.Close()
	e, err := Join(t.Context(), client, url, Hello{Role: Expert, Addr: "tcp:127.0.0.1:7002", Identity: identity,
		Place: AnyPlace}, time.Second)
	require.NoError(t, err)
	defer e.Close()
	require.NoError(t, a.Ready(0))
	require.NoError(t, e.Ready(1))
	until(t, a, func(v View) bool { self, _ := v.Find(a.Self.ID); return self.Ready })
	require.NoError(t, a.Reach(nil))
	until(t, a, func(v View) bool { return v.Missing() == "" })
	require.NoError(t, e.Drain())
	v := until(t, a, func(v View) bool { return v.Missing() != "" })
	require.Equal(t, "0 of 1 expert nodes are ready (about to stop: "+e.Self.ID+")", v.Missing())
	require.True(t, v.Of(Expert)[0].Ready, "it still serves those who need it")
	server.Expel(e.Self.ID)
	until(t, a, func(v View) bool { return len(v.Of(Expert)) == 0 })
}

// TestExpelledNodeFindsOut removes a member as a silent one is removed.
func TestExpelledNodeFindsOut(t *testing.T) {
	server, url := front(t, time.Second)
	client := NewHTTPClient(time.Second, nil)
	defer client.CloseIdleConnections()
	a, err := Join(t.Context(), client, url, Hello{Role: Attention, Addr: "tcp:127.0.0.1:7001", Identity: identity,
		Place: AnyPlace}, time.Second)
	require.NoError(t, err)
	defer a.Close()
	server.Expel(a.Self.ID)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for err == nil {
		_, err = a.Next(ctx)
	}
	require.ErrorContains(t, err, "was removed: it was about to stop")
}

// TestEndComesRightAfterAView: a session may end after Next has heard of a view,
// and before it looks.
func TestEndComesRightAfterAView(t *testing.T) {
	s := &Session{news: make(chan struct{}, 1)}
	s.set(View{}, nil)
	s.mu.Lock()
	first := make(chan error, 1)
	go func() {
		_, err := s.Next(t.Context())
		first <- err
	}()
	require.Eventually(t, func() bool { return len(s.news) == 0 }, 5*time.Second, time.Millisecond)
	s.err = errors.New("the end")
	s.wake()
	s.mu.Unlock()
	select {
	case err := <-first:
		require.EqualError(t, err, "the end")
	case <-time.After(5 * time.Second):
		t.Fatal("Next hangs")
	}
	_, err := s.Next(t.Context())
	require.EqualError(t, err, "the end", "an end stays an end")
}
