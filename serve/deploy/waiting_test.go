package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/m2n"
)

// TestWaitingIsToldAtABoundedRate: a node logs at a bounded rate that it waits, and as a
// warning only where the wait is long and an operator must do something.
func TestWaitingIsToldAtABoundedRate(t *testing.T) {
	var out bytes.Buffer
	w := waiting{log: slog.New(slog.NewTextHandler(&out, nil))}
	now := time.Unix(0, 0)
	said := func(err error) []string {
		out.Reset()
		for range 120 { // attempts for two minutes
			now = now.Add(time.Second)
			w.tell(now, err)
		}
		return strings.Split(strings.TrimSpace(out.String()), "\n")
	}
	lines := said(&joinError{fmt.Errorf("joining: %w", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})})
	require.Len(t, lines, 4)
	for _, l := range lines {
		require.Contains(t, l, "level=INFO")
		require.Contains(t, l, "waiting for the front end, trying to join")
	}
	w.tell(now, errors.New("lost"))
	lines = said(&joinError{fmt.Errorf("joining: %w", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})})
	require.Contains(t, lines[0], "level=INFO", "it is being restarted")
	require.Contains(t, lines[3], "level=WARN", "it does not come back")
	w.tell(now, errors.New("lost"))
	lines = said(&joinError{errors.New("all 1 places of expert nodes are taken")})
	require.Len(t, lines, 4)
	require.Contains(t, lines[0], "level=INFO", "it may have been this node's")
	require.Contains(t, lines[3], "level=WARN")
	require.Contains(t, lines[3], "waiting to be admitted")
}

// TestOrderlyEndsAreNoWarnings: an end that the cluster or an operator wants is no
// warning.
func TestOrderlyEndsAreNoWarnings(t *testing.T) {
	for err, level := range map[error]slog.Level{
		fmt.Errorf("unavailable: %w", cluster.ErrStopping):  slog.LevelInfo,
		errors.New("nothing heard of the front end for 2s"): slog.LevelWarn,
	} {
		require.Equal(t, level, lossLevel(err), err)
	}
}

// TestReasonsAreOfOneLineAndStay: a reason is one line, and equal failures have equal
// reasons.
func TestReasonsAreOfOneLineAndStay(t *testing.T) {
	lost := func(err error) error { return &m2n.LostError{Peer: "expert-0", Epoch: 1, Cause: err} }
	_, refused := net.Dial("tcp", "127.0.0.1:1")
	for want, err := range map[string]error{
		"connection refused":                 lost(errors.Join(fmt.Errorf("connecting to tcp:127.0.0.1:1: %w", refused), errors.New("more"))),
		"no answer in time":                  lost(fmt.Errorf("%w: for 2s", m2n.ErrSilent)),
		"remote error: tls: bad certificate": lost(&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}),
		"one two":                            lost(errors.New("one\n\ttwo")),
		"connection refused by the peer: the peer wanted is \"a\", this is \"b\"": lost(fmt.Errorf("%w: the peer wanted is \"a\", this is \"b\"", m2n.ErrRefused)),
	} {
		require.Equal(t, want, reasonOf(err))
	}
}
