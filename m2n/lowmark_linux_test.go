package m2n

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n/internal/poll"
	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// undriven is an endpoint "e" with one connection to a peer "x". The test writes the bytes
// of x, and drives e's engine: there is no watchdog.
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

// tcpPipe returns both ends of a TCP connection.
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
		n, err := unix.IoctlGetInt(u.sock.socket.FD(), unix.TIOCINQ)
		return err == nil && n == len(b)
	}, atLast, time.Millisecond)
}

// mark is the low-water mark, as the kernel has it.
func (u *undriven) mark() int {
	u.t.Helper()
	n, err := unix.GetsockoptInt(u.sock.socket.FD(), unix.SOL_SOCKET, unix.SO_RCVLOWAT)
	require.NoError(u.t, err)
	return n
}

// woken reports whether the poller would wake the driver.
func (u *undriven) woken() bool {
	u.t.Helper()
	for _, e := range u.sock.engine.poller.Wait(false) {
		if e.Fd == int32(u.sock.socket.FD()) {
			return true
		}
	}
	return false
}

// read does what the driver does when it is woken.
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

// TestFullReadThenNothing: a read fills all space of the assembler, with the beginning of
// the next message too, and the next read finds nothing. However many bytes are missing of
// that message, the last of them wake the driver.
func TestFullReadThenNothing(t *testing.T) {
	for _, missing := range []int{1, 2, 63, 64, 4 << 10, poll.LeastAwaited - 1, poll.LeastAwaited, 64 << 10, 100_000, poll.MostAwaited - 1, poll.MostAwaited} {
		t.Run(fmt.Sprint(missing), func(t *testing.T) {
			u := newUndriven(t, 1<<20)
			first := message(1, poll.MostAwaited)
			const meta = wire.FixedBytes + 4
			second := message(2, wire.ReadBuffer-meta+missing)
			u.send(first[:meta])
			u.read()
			require.Equal(t, poll.MostAwaited, u.mark(), "this test is of a mark that is set")
			u.send(append(first[meta:], second[:wire.ReadBuffer]...)) // as many bytes as there is space for
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
			room, err := unix.GetsockoptInt(u.sock.socket.FD(), unix.SOL_SOCKET, unix.SO_RCVBUF)
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

// TestMarkThatCannotBeLowered: a pair that could not be woken any more is lost, and
// says why.
func TestMarkThatCannotBeLowered(t *testing.T) {
	u := newUndriven(t, 1<<20)
	m := message(1, poll.MostAwaited)
	u.send(m[:wire.FixedBytes+4])
	u.read()
	// The rest comes by a pipe in the socket's place, which can be read, and has no mark.
	var pipe [2]int
	require.NoError(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	_, err := unix.FcntlInt(uintptr(pipe[1]), unix.F_SETPIPE_SZ, 2*poll.MostAwaited)
	require.NoError(t, err)
	_, err = unix.Write(pipe[1], m[wire.FixedBytes+4:])
	require.NoError(t, err)
	require.NoError(t, unix.Dup3(pipe[0], u.sock.socket.FD(), unix.O_CLOEXEC))
	u.sock.Readable()
	require.Equal(t, Received, pollOne(t, u.e).Kind)
	lost := pollKind(t, u.e, Lost)
	require.ErrorIs(t, lost.Err, ErrBroken)
	require.ErrorContains(t, lost.Err, `peer "x" (epoch 3) is lost: connection is broken: reading: lowering SO_RCVLOWAT from 131072 to 1 bytes: socket operation on non-socket`)
}
