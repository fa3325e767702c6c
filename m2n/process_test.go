//go:build linux || darwin

package m2n

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Environment variables of the other process: the address of e, and whether to send large
// messages all the time.
const (
	peerVariable  = "M2N_TEST_PEER_OF"
	floodVariable = "M2N_TEST_PEER_FLOODS"
)

// floodBody is so large that a process that is killed is in the middle of a message.
const floodBody = 8 << 20

// otherProcess starts a peer "p" of e in a process of its own: this test's binary, which
// answers every message.
func otherProcess(t *testing.T, e *Endpoint, addr string, env ...string) *os.Process {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestOtherProcess$")
	cmd.Env = append(append(os.Environ(), peerVariable+"="+addr), env...)
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

// TestOtherProcess is the main function of the other process, and no test.
func TestOtherProcess(t *testing.T) {
	addr := os.Getenv(peerVariable)
	if addr == "" {
		t.Skip("it runs in a process of its own, for the tests below")
	}
	p := endpoint(t, Config{ID: "p", PeerTimeout: inTime, SlotBytes: floodBody, Slots: 2})
	require.NoError(t, p.SetPeer("e", addr, 0))
	scheme, _, _ := strings.Cut(addr, ":")
	_, err := os.Stdout.WriteString(listen(t, p, scheme+":127.0.0.1:0") + "\n")
	require.NoError(t, err)
	if os.Getenv(floodVariable) != "" {
		flood(t, p, "e", func(int) bool { return true })
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		c, err := p.Poll(ctx)
		if err != nil || c.Kind == Lost {
			return
		}
		if c.Kind == Received {
			p.Release(c)
			if len(c.Body) > 0 { // of a flood
				continue
			}
			_, err := p.Post("e", Message{Header: c.Header})
			require.NoError(t, err)
		}
	}
}

// flood sends large messages as fast as the transport allows, until the pair is lost or
// more returns false, and returns how many were posted and how many reported. It calls
// more after each Sent.
func flood(t *testing.T, e *Endpoint, peer string, more func(sent int) bool) (posted, reported int) {
	t.Helper()
	post := func() {
		region := e.Register(content(e.cfg.ID, uint64(posted), floodBody), nil)
		if _, err := e.Post(peer, Message{Header: binary.LittleEndian.AppendUint64(nil, uint64(posted)), Body: []Span{{region, 0, floodBody}}}); err == nil {
			posted++
		}
	}
	post()
	post()
	for {
		c := pollOne(t, e)
		switch c.Kind {
		case Lost:
			require.ErrorIs(t, c.Err, ErrBroken)
			return posted, reported
		case Sent:
			if reported++; more(reported) {
				post()
			}
		}
	}
}

// TestKilledMidMessage: a process is killed while a large message is half copied, at
// either end. Every message that was received is whole, every message that was posted is
// reported, the loss is noticed at once, the memory for what p sends goes back, and e's
// other pair goes on.
func TestKilledMidMessage(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tcp", "shm"} {
		t.Run("sender/"+scheme, func(t *testing.T) {
			e, c, addr, memory := killPair(t, scheme)
			p := otherProcess(t, e, addr, floodVariable+"=1")
			var begin time.Time
			for received := 0; ; {
				d := pollOne(t, e)
				if d.Kind == Lost {
					require.Equal(t, "p", d.Peer)
					require.ErrorIs(t, d.Err, ErrBroken)
					break
				}
				number := binary.LittleEndian.Uint64(d.Header)
				require.EqualValues(t, received, number)
				require.True(t, bytes.Equal(content("p", number, floodBody), d.Body[0].Bytes()), "message %d", number)
				e.Release(d)
				if received++; received == 5 {
					begin = time.Now()
					require.NoError(t, p.Signal(syscall.SIGKILL))
				}
			}
			require.NotZero(t, begin)
			require.Less(t, time.Since(begin), inTime)
			memory.requireFreed(t, 1)
			transfer(t, e, c)
		})
		t.Run("receiver/"+scheme, func(t *testing.T) {
			e, c, addr, memory := killPair(t, scheme)
			p := otherProcess(t, e, addr)
			var begin time.Time
			posted, reported := flood(t, e, "p", func(sent int) bool {
				if sent == 5 {
					begin = time.Now()
					require.NoError(t, p.Signal(syscall.SIGKILL))
				}
				return true
			})
			require.NotZero(t, begin)
			require.Less(t, time.Since(begin), inTime)
			require.Equal(t, posted, reported)
			memory.requireFreed(t, 1)
			transfer(t, e, c)
		})
	}
}

// killPair returns an endpoint e that receives floods, and a peer c that will not be
// killed: its window is the one that memory, which counts e's, keeps.
func killPair(t *testing.T, scheme string) (e, c *Endpoint, addr string, memory *memoryMeter) {
	t.Helper()
	memory = new(memoryMeter)
	cfg := Config{ID: "e", PeerTimeout: inTime, SlotBytes: floodBody, Slots: 2}
	memory.watch(&cfg)
	e = endpoint(t, cfg)
	addr = listen(t, e, scheme+":127.0.0.1:0")
	c = endpoint(t, Config{ID: "c"})
	require.NoError(t, e.SetPeer("c", listen(t, c, scheme+":127.0.0.1:0"), 0))
	require.NoError(t, c.SetPeer("e", "", 0))
	transfer(t, e, c)
	return e, c, addr, memory
}

func TestKilledAndStoppedProcesses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		signal syscall.Signal
		within time.Duration
		cause  error
	}{
		{syscall.SIGKILL, testTimeout, ErrBroken},
		{syscall.SIGSTOP, inTime, ErrSilent},
	} {
		for _, scheme := range []string{"tcp", "shm"} {
			t.Run(tc.signal.String()+"/"+scheme, func(t *testing.T) {
				e := endpoint(t, Config{ID: "e", PeerTimeout: testTimeout})
				p := otherProcess(t, e, listen(t, e, scheme+":127.0.0.1:0"))
				_, err := e.Post("p", Message{Header: []byte("ping")})
				require.NoError(t, err)
				for kinds := map[Kind]int{}; kinds[Sent] == 0 || kinds[Received] == 0; { // in either order
					c := pollOne(t, e)
					require.NoError(t, c.Err)
					kinds[c.Kind]++
					e.Release(c)
				}
				require.Equal(t, scheme, e.Stats()[0].Transport)

				begin := time.Now()
				require.NoError(t, p.Signal(tc.signal))
				lost := requireLost(t, e, "p")
				require.Less(t, time.Since(begin), tc.within)
				require.ErrorIs(t, lost, tc.cause)
			})
		}
	}
}
