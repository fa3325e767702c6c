//go:build linux || darwin

package m2n

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const peerVariable = "M2N_TEST_PEER_OF"

// otherProcess is a peer "p" of e in a process of its own: this test's binary,
// which answers every message.
func otherProcess(t *testing.T, e *Endpoint, addr string) *os.Process {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestOtherProcess$")
	cmd.Env = append(os.Environ(), peerVariable+"="+addr)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone already
		_ = cmd.Wait()         // its status says how it was killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, e.SetPeer("p", strings.TrimSpace(line), 0))
	return cmd.Process
}

// TestOtherProcess is no test but the other process.
func TestOtherProcess(t *testing.T) {
	addr := os.Getenv(peerVariable)
	if addr == "" {
		t.Skip("it runs in a process of its own, for the tests below")
	}
	p := endpoint(t, Config{ID: "p", PeerTimeout: testTimeout})
	require.NoError(t, p.SetPeer("e", addr, 0))
	scheme, _, _ := strings.Cut(addr, ":")
	_, err := os.Stdout.WriteString(listen(t, p, scheme+":127.0.0.1:0") + "\n")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		c, err := p.Poll(ctx)
		if err != nil || c.Kind == Lost {
			return
		}
		if c.Kind == Received {
			p.Release(c)
			_, err := p.Post("e", Message{Header: c.Header})
			require.NoError(t, err)
		}
	}
}

func TestKilledAndStoppedProcesses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		signal syscall.Signal
		within time.Duration
		cause  error
	}{
		{syscall.SIGKILL, testTimeout, nil},
		{syscall.SIGSTOP, 2 * testTimeout, ErrSilent},
	} {
		for _, scheme := range []string{"tcp", "shm"} {
			t.Run(tc.signal.String()+"/"+scheme, func(t *testing.T) {
				e := endpoint(t, Config{ID: "e", PeerTimeout: testTimeout})
				p := otherProcess(t, e, listen(t, e, scheme+":127.0.0.1:0"))
				_, err := e.Post("p", Message{Header: []byte("ping")})
				require.NoError(t, err)
				for kinds := map[Kind]int{}; kinds[Sent] == 0 || kinds[Received] == 0; { // in either order
					c := poll(t, e)
					require.NoError(t, c.Err)
					kinds[c.Kind]++
					e.Release(c)
				}
				require.Equal(t, scheme, e.Stats()[0].Transport)

				begin := time.Now()
				require.NoError(t, p.Signal(tc.signal))
				lost := requireLost(t, e, "p")
				require.Less(t, time.Since(begin), tc.within)
				if tc.cause != nil {
					require.ErrorIs(t, lost, tc.cause)
				}
			})
		}
	}
}
