//go:build ucx && cgo

package ucx

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n"
)

// visiting is what two processes tell each other, a line of JSON each.
type visiting struct {
	Address []byte
	Key     uint64
}

// job is what the other process does.
type job struct {
	TLS              string
	Slots, SlotBytes int
	// Echo: each message is sent back. Else a message of nothing answers every
	// Acknowledge messages.
	Echo        bool
	Acknowledge int
	Spin        bool // instead of waiting for the descriptor
}

const jobVariable = "M2N_UCX_TEST_JOB"

// otherProcess starts a process with a job, and connects to it.
func otherProcess(t testing.TB, j job) (e *end, kill func()) {
	t.Helper()
	text, err := json.Marshal(j)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^TestOtherProcess$")
	cmd.Env = append(os.Environ(), jobVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill() // it may be gone already
		_ = cmd.Wait()         // its status says how it was killed. Shared memory's keepalive sees a zombie as alive
	})
	t.Cleanup(kill)
	e = newEnd(t, open(t, j.TLS), j.Slots, j.SlotBytes, 64<<10)
	require.NoError(t, json.NewEncoder(in).Encode(visiting{e.fabric.Address(), e.Key()}))
	line, err := bufio.NewReader(out).ReadBytes('\n')
	require.NoError(t, err)
	var theirs visiting
	require.NoError(t, json.Unmarshal(line, &theirs))
	require.NoError(t, e.Connect(theirs.Address, theirs.Key))
	return e, kill
}

// TestOtherProcess is no test but the other process, which works until it is
// killed, or its parent is gone.
func TestOtherProcess(t *testing.T) {
	text := os.Getenv(jobVariable)
	if text == "" {
		t.Skip("it runs in a process of its own, for other tests")
	}
	var j job
	require.NoError(t, json.Unmarshal([]byte(text), &j))
	e := newEnd(t, open(t, j.TLS), j.Slots, j.SlotBytes, 64<<10)
	var theirs visiting
	require.NoError(t, json.NewDecoder(os.Stdin).Decode(&theirs))
	require.NoError(t, e.Connect(theirs.Address, theirs.Key))
	require.NoError(t, json.NewEncoder(os.Stdout).Encode(visiting{e.fabric.Address(), e.Key()}))
	work(t, e, j)
}

func work(t *testing.T, e *end, j job) {
	parent := os.Getppid()
	for seen := 0; e.failed == nil && os.Getppid() == parent; {
		if step(e.fabric) == 0 && !j.Spin {
			wait(t, e.fabric, 100*time.Millisecond)
		}
		for _, ev := range e.received {
			seen++
			switch {
			case j.Echo:
				body := []m2n.Span{{Region: e.in.Memory, Off: ev.Slot * e.in.Stride, Len: ev.Body}}
				require.NoError(t, e.Send(uint64(ev.Slot), ev.Header, body))
			default:
				e.Refill(ev.Slot)
				if seen%j.Acknowledge == 0 {
					require.NoError(t, e.Send(uint64(j.Slots), nil, nil))
				}
			}
		}
		for _, ev := range e.sent {
			if slot := int(ev.Token); slot < j.Slots {
				e.Refill(slot)
			}
		}
		e.received, e.sent = e.received[:0], e.sent[:0]
	}
}

// TestOtherProcesses exchanges messages with another process that waits for its
// descriptor.
func TestOtherProcesses(t *testing.T) {
	onAll(t, func(t *testing.T, tls string) {
		const slots, size = 4, 1 << 20
		e, _ := otherProcess(t, job{TLS: tls, Slots: slots, SlotBytes: size, Echo: true})
		source := random(6, 2*size)
		for i, bytes := range []int{0, 1, 5000, 60_000, size} {
			*e = reset(e)
			body, want := cut(source, bytes, 1+i*10)
			header := binary.LittleEndian.AppendUint64(nil, uint64(i))
			require.NoError(t, e.Send(1, header, body))
			until(t, "the echo", func() bool { return len(e.received) == 1 && len(e.sent) == 1 }, e)
			requireReceived(t, e, header, want)
		}
	})
}

// TestKilled: the end of a peer is an error within a bounded time, on its
// connection alone.
func TestKilled(t *testing.T) {
	onAll(t, func(t *testing.T, tls string) {
		const slots, size = 4, 1000
		e, kill := otherProcess(t, job{TLS: tls, Slots: slots, SlotBytes: size, Echo: true})
		healthy, _ := otherProcess(t, job{TLS: tls, Slots: slots, SlotBytes: size, Echo: true})
		require.NoError(t, e.Send(0, nil, nil))
		until(t, "the first echo", func() bool { return len(e.received) == 1 && len(e.sent) == 1 }, e)
		kill()
		requireFailure(t, e, 1)
		require.NoError(t, healthy.Send(1, []byte("still"), nil))
		until(t, "another's echo", func() bool { return len(healthy.received) == 1 }, healthy)
	})
}

func requireFailure(t *testing.T, e *end, sent int) {
	t.Helper()
	began := time.Now()
	until(t, "the failure", func() bool { return e.failed != nil }, e)
	t.Logf("noticed after %v: %v", time.Since(began).Round(time.Millisecond), e.failed)
	e.Close()
	until(t, "the close", func() bool { return e.closed }, e)
	require.Len(t, e.sent, sent)
	require.Less(t, time.Since(began), 5*time.Second)
}

// TestKilledInTheMiddle: what was under way is reported too.
func TestKilledInTheMiddle(t *testing.T) {
	const slots, size = 4, 8 << 20
	e, kill := otherProcess(t, job{TLS: "tcp", Slots: slots, SlotBytes: size, Echo: true})
	sendMuch(t, e, slots, size)
	kill()
	requireFailure(t, e, slots)
}

// sendMuch leaves all but one of a peer's slots of messages under way, both ways.
func sendMuch(t *testing.T, e *end, slots, size int) {
	require.NoError(t, e.Send(0, nil, nil))
	until(t, "the first echo", func() bool { return len(e.received) == 1 && len(e.sent) == 1 }, e)
	body := []m2n.Span{{Region: random(7, size), Len: size}}
	for i := range slots - 1 {
		require.NoError(t, e.Send(uint64(i+1), nil, body))
	}
	step(e.fabric)
}

// TestCutShort: where UCX does not let go of a connection, Close does. UCX 1.13
// waits forever for a dead peer whose shared memory is full.
func TestCutShort(t *testing.T) {
	const slots, size = 4, 8 << 20
	e, kill := otherProcess(t, job{TLS: "posix,self", Slots: slots, SlotBytes: size, Echo: true})
	sendMuch(t, e, slots, size)
	kill()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := e.fabric.Close(ctx); err != nil {
		require.ErrorContains(t, err, "1 connections were cut")
	}
	require.Empty(t, e.fabric.memory)
	require.ErrorIs(t, e.Send(0, nil, nil), errClosed)
}
