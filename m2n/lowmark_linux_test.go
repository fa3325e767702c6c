package m2n

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// undriven is an endpoint "e" with one connection of a peer "x" whose bytes the test
// writes, and which nobody reads but the test: there is no watchdog.
type undriven struct {
	t    *testing.T
	e    *Endpoint
	sock *socketConn
	peer net.Conn
}

func newUndriven(t *testing.T, buffer int) *undriven {
	t.Helper()
	e := endpoint(t, Config{ID: "e", PeerTimeout: atLast})
	require.NoError(t, e.SetPeer("x", "", 3))
	p, err := e.peer("x")
	require.NoError(t, err)
	mine, theirs := tcpPipe(t)
	require.NoError(t, mine.SetReadBuffer(buffer))
	s := newHandshakeConn(context.Background(), e, mine, nil)
	require.NoError(t, s.detach())
	memory, err := newReceiveWindow(e)
	require.NoError(t, err)
	l, err := newWireLink(p, viaTCP, memory, []*handshakeConn{s}, e.greeting(pairID{}))
	require.NoError(t, err)
	p.mu.Lock()
	p.markUp(l, e.limits())
	p.mu.Unlock()
	require.NoError(t, l.lanes[0].open())
	return &undriven{t, e, l.lanes[0].conn.(*socketConn), theirs}
}

// tcpPipe is both ends of a TCP connection.
func tcpPipe(t *testing.T) (mine *net.TCPConn, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	theirs, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { theirs.Close() })
	c, err := l.Accept()
	require.NoError(t, err)
	return c.(*net.TCPConn), theirs
}

// send writes bytes and waits until all of them are in the socket.
func (u *undriven) send(b []byte) {
	u.t.Helper()
	require.NoError(u.t, u.peer.SetWriteDeadline(time.Now().Add(atLast)))
	_, err := u.peer.Write(b)
	require.NoError(u.t, err)
	require.Eventually(u.t, func() bool {
		n, err := unix.IoctlGetInt(u.sock.fd, unix.TIOCINQ)
		return err == nil && n == len(b)
	}, atLast, time.Millisecond)
}

// mark is what the kernel waits for.
func (u *undriven) mark() int {
	u.t.Helper()
	n, err := unix.GetsockoptInt(u.sock.fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT)
	require.NoError(u.t, err)
	return n
}

// woken tells whether the gate would wake who waits.
func (u *undriven) woken() bool {
	u.t.Helper()
	events := make([]unix.EpollEvent, 4)
	n, err := epollLook(u.sock.engine.poller.epoll, events)
	require.NoError(u.t, err)
	for _, e := range events[:n] {
		if e.Fd == int32(u.sock.fd) {
			return true
		}
	}
	return false
}

// read is what the driver does when it is woken.
func (u *undriven) read() {
	u.t.Helper()
	require.True(u.t, u.woken(), "nobody is woken: the mark is %d", u.mark())
	u.sock.engine.tryProgress()
	require.LessOrEqual(u.t, u.mark(), u.sock.lane.in.Missing(), "the mark after reading")
}

func message(number uint64, body int) []byte {
	f := wire.Frame{Kind: wire.Data, Epoch: 3, Seq: number, Number: number, Body: body, Lengths: []int{body}}
	return encode(f, make([]byte, body))
}

// TestFullReadThenNothing: a read fills all the space there is, a part of the next
// message included, and the next one finds nothing. Whatever is missing of that
// message, its last bytes wake who waits for them.
func TestFullReadThenNothing(t *testing.T) {
	for _, missing := range []int{1, 2, 63, 64, 4 << 10, leastAwaited - 1, leastAwaited, 64 << 10, 100_000, mostAwaited - 1, mostAwaited} {
		t.Run(fmt.Sprint(missing), func(t *testing.T) {
			u := newUndriven(t, 1<<20)
			first := message(1, mostAwaited)
			const meta = wire.FixedBytes + 4
			second := message(2, wire.ReadBuffer-meta+missing)
			u.send(first[:meta])
			u.read()
			require.Equal(t, mostAwaited, u.mark(), "this test is of a mark that is set")
			u.send(append(first[meta:], second[:wire.ReadBuffer]...)) // all that there is space for
			u.read()
			pollKind(t, u.e, Received)
			require.Equal(t, missing, u.sock.lane.in.Missing())
			require.False(t, u.woken())
			u.send(second[wire.ReadBuffer:])
			u.read()
			_, ok := u.e.pop()
			require.True(t, ok, "the second message")
		})
	}
}

// TestMarkOfASmallReceiveBuffer: the mark is never above what the buffer holds,
// and a message many times larger arrives.
func TestMarkOfASmallReceiveBuffer(t *testing.T) {
	for _, buffer := range []int{16 << 10, 32 << 10, 64 << 10, 128 << 10} {
		t.Run(fmt.Sprint(buffer), func(t *testing.T) {
			u := newUndriven(t, buffer)
			written := make(chan error, 1)
			go func() {
				_, err := u.peer.Write(message(1, 1<<20))
				written <- err
			}()
			room, err := unix.GetsockoptInt(u.sock.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
			require.NoError(t, err)
			deadline := time.Now().Add(atLast)
			for u.e.completions.length.Load() == 0 {
				require.True(t, time.Now().Before(deadline), "it does not arrive: mark %d", u.mark())
				u.sock.engine.tryProgress()
				require.LessOrEqual(t, u.mark(), room)
			}
			require.NoError(t, <-written)
		})
	}
}

// TestLowMark: what is asked of the kernel, and what becomes of it where the kernel
// says no.
func TestLowMark(t *testing.T) {
	refused := errors.New("refused")
	type step struct {
		lacks, want int // want: the mark after that
		refused     bool
		room        int
		fails       bool
	}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"as much as is lacking", []step{{lacks: 70_000, want: 70_000}, {lacks: 40_000, want: 40_000}, {lacks: 1 << 30, want: mostAwaited}}},
		{"a short rest is not waited for", []step{{lacks: leastAwaited, want: leastAwaited}, {lacks: leastAwaited - 1, want: 1}, {lacks: 0, want: 1}}},
		{"it cannot be raised", []step{{lacks: 70_000, want: 1, refused: true}, {lacks: 80_000, want: 80_000}, {lacks: 90_000, want: 80_000, refused: true}}},
		{"it cannot be lowered", []step{{lacks: 70_000, want: 70_000}, {lacks: 64, want: 70_000, refused: true, fails: true}}},
		{"the buffer is smaller", []step{{lacks: 70_000, want: 1, room: 69_999}, {lacks: 50_000, want: 50_000, room: 69_999}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			kernel := 1
			var now step
			m := lowMark{at: 1, room: func() (int, error) { return now.room, nil }, set: func(n int) error {
				if now.refused {
					return refused
				}
				kernel = n
				return nil
			}}
			for _, now = range tc.steps {
				if now.room == 0 {
					now.room = 1 << 30
				}
				err := m.leave(now.lacks)
				require.Equal(t, now.want, kernel)
				if now.fails {
					require.ErrorIs(t, err, refused)
					require.ErrorContains(t, err, "lowering SO_RCVLOWAT from 70000 to 1 bytes")
					return
				}
				require.NoError(t, err)
				require.Equal(t, kernel, m.at)
			}
		})
	}
}

// TestMarkThatCannotBeLowered: a pair that could not be woken any more is lost, and
// says why.
func TestMarkThatCannotBeLowered(t *testing.T) {
	u := newUndriven(t, 1<<20)
	m := message(1, mostAwaited)
	u.send(m[:wire.FixedBytes+4])
	u.read()
	u.sock.mark.set = func(int) error { return unix.EPERM }
	u.send(m[wire.FixedBytes+4:])
	u.sock.engine.tryProgress()
	require.Equal(t, Received, poll(t, u.e).Kind)
	lost := pollKind(t, u.e, Lost)
	require.ErrorIs(t, lost.Err, ErrBroken)
	require.ErrorContains(t, lost.Err, `peer "x" (epoch 3) is lost: connection is broken: reading: lowering SO_RCVLOWAT from 131072 to 1 bytes: operation not permitted`)
}

// TestMarkOfAnotherOwner: a socket that comes with a mark, of its listener for
// example, is not waited on by that.
func TestMarkOfAnotherOwner(t *testing.T) {
	mine, _ := tcpPipe(t)
	defer mine.Close()
	raw, err := mine.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		require.NoError(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, 5000))
		m := newLowMark(int(fd))
		require.NoError(t, m.leave(wire.FixedBytes))
		at, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT)
		require.NoError(t, err)
		require.Equal(t, 1, at)
	}))
}
