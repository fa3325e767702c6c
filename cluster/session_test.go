package cluster

import (
	"context"
	"math"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/tandemv1"
)

// deaf is a front end that welcomes a node and reads nothing more of it.
type deaf struct{ beats bool }

func (d deaf) Join(ctx context.Context, stream *joinStream) error {
	if _, err := stream.Receive(); err != nil {
		return err
	}
	m := &tandemv1.JoinResponse{Message: &tandemv1.JoinResponse_Welcome{Welcome: &tandemv1.Welcome{
		Self:  memberToProto(Member{ID: "expert-0", Role: Expert, Addr: "tcp:127.0.0.1:1"}),
		View:  viewToProto(View{Version: 1, Settings: settings}),
		Token: "secret",
	}}}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := stream.Send(m); err != nil {
			return err
		}
		m = &tandemv1.JoinResponse{Message: &tandemv1.JoinResponse_Beat{Beat: &tandemv1.Beat{}}}
		for wait := true; wait; wait = !d.beats {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	}
}

// joinDeaf joins such a front end, and fills what can be sent to it.
func joinDeaf(t *testing.T, beats bool) (s *Session, sent <-chan error) {
	t.Helper()
	_, handler := tandemv1.NewMembershipHandler(deaf{beats}, Options()...)
	web := httptest.NewUnstartedServer(handler)
	web.Config.Protocols = Protocols()
	web.Start()
	t.Cleanup(web.Close)
	client := NewHTTPClient(time.Second, nil)
	t.Cleanup(client.CloseIdleConnections)
	s, err := Join(t.Context(), client, web.URL, Hello{Role: Expert, Addr: "tcp:127.0.0.1:1", Identity: identity,
		Place: AnyPlace}, 500*time.Millisecond)
	require.NoError(t, err)
	digests := make([]uint64, 1<<20)
	for i := range digests {
		digests[i] = math.MaxUint64
	}
	result := make(chan error, 1)
	go func() { result <- s.Weights(1, digests) }()
	return s, result
}

// ends waits for what must not wait for ever.
func ends[T any](t *testing.T, c <-chan T) (value T) {
	t.Helper()
	select {
	case value = <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for a front end that does not read")
	}
	return value
}

// TestSendingEndsWithTheFrontEnd: a message that a front end does not read is given
// up when nothing is heard of that front end, although its machine answers pings.
func TestSendingEndsWithTheFrontEnd(t *testing.T) {
	s, sent := joinDeaf(t, false)
	require.Error(t, ends(t, sent))
	s.Close()
}

// TestCloseIsBounded: a node leaves a front end that lives and does not read.
func TestCloseIsBounded(t *testing.T) {
	t.Parallel() // most of its time is waiting
	s, sent := joinDeaf(t, true)
	time.Sleep(100 * time.Millisecond) // the message waits, whether or not it did before
	closed := make(chan bool)
	go func() {
		s.Close()
		close(closed)
	}()
	ends(t, closed)
	require.Error(t, ends(t, sent))
}
