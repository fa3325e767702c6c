package cluster

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
)

// scripted is a Judge that wants given digests, once it may say so.
type scripted struct {
	want []uint64
	may  chan struct{}
}

func (s *scripted) Weights(Member, Placement) int { return len(s.want) }

func (s *scripted) Compare(ctx context.Context, _ Member, _ Placement, digests []uint64) error {
	select {
	case <-s.may:
	case <-ctx.Done():
		return ctx.Err()
	}
	if !slices.Equal(s.want, digests) {
		return errors.New("tensor x differs")
	}
	return nil
}

// judged joins a node to a front end with a judge.
func judged(t *testing.T, j *scripted) (*Server, *Session) {
	t.Helper()
	server, url := front(t, time.Second)
	server.Judge = j
	client := NewHTTPClient(time.Second, nil)
	s, err := Join(t.Context(), client, url, Hello{Role: Expert, Addr: "tcp:e:1", Identity: identity, Place: AnyPlace},
		time.Second)
	require.NoError(t, err)
	t.Cleanup(func() {
		s.Close()
		client.CloseIdleConnections()
	})
	return server, s
}

// end waits for the error that ends a session.
func end(t *testing.T, s *Session) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for {
		if _, err := s.Next(ctx); err != nil {
			return err
		}
	}
}

// many are more digests than a message takes.
func many() []uint64 {
	list := make([]uint64, 2*digestsPerMessage+7)
	for i := range list {
		list[i] = uint64(i) << 50
	}
	return list
}

// TestReadyWaitsForTheJudge: the node lives on, and is ready once its weights have
// been found to be the cluster's.
func TestReadyWaitsForTheJudge(t *testing.T) {
	t.Parallel() // most of its time is waiting
	j := &scripted{want: many(), may: make(chan struct{})}
	server, s := judged(t, j)
	require.NoError(t, s.Weights(1, many()))
	require.NoError(t, s.Ready(1))
	require.Never(t, func() bool {
		v, _ := server.View()
		return len(v.Members) != 1 || v.Members[0].Ready
	}, 1500*time.Millisecond, 50*time.Millisecond)
	close(j.may)
	until(t, s, func(v View) bool { return v.Members[0].Ready })
}

func TestOtherWeightsAreRefused(t *testing.T) {
	open := make(chan struct{})
	close(open)
	other := many()
	other[digestsPerMessage]++
	for name, c := range map[string]struct {
		say  func(s *Session) error
		want string
	}{
		"another digest": {func(s *Session) error { return errors.Join(s.Weights(1, other), s.Ready(1)) },
			" refused: tensor x differs"},
		"too few": {func(s *Session) error { return errors.Join(s.Weights(1, other[1:]), s.Ready(1)) },
			" refused: tensor x differs"},
		"none": {func(s *Session) error { return s.Ready(1) }, " refused: tensor x differs"},
		"too many": {func(s *Session) error { return s.Weights(1, append(other, 1)) },
			" tells of 8200 weights or more, its part has 8199"},
	} {
		t.Run(name, func(t *testing.T) {
			_, s := judged(t, &scripted{want: many(), may: open})
			require.NoError(t, c.say(s))
			err := end(t, s)
			require.ErrorContains(t, err, "node "+s.Self.ID)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(err), "trying again is in vain")
		})
	}
}

// TestReadyIsSaidOnce: what comes later would be judged by nobody.
func TestReadyIsSaidOnce(t *testing.T) {
	for name, again := range map[string]func(s *Session) error{
		"ready":   func(s *Session) error { return s.Ready(1) },
		"weights": func(s *Session) error { return s.Weights(1, []uint64{1}) },
	} {
		t.Run(name, func(t *testing.T) {
			_, s := judged(t, &scripted{want: []uint64{1, 2}, may: make(chan struct{})})
			require.NoError(t, s.Weights(1, []uint64{1}))
			require.NoError(t, s.Ready(1))
			require.NoError(t, again(s))
			require.Equal(t, connect.CodeInvalidArgument, connect.CodeOf(end(t, s)))
		})
	}
}
