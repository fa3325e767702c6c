//go:build linux

package m2n

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n/internal/shm"
	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// hostStranger is a peer "x" of e that shares memory with e. The test writes there what x
// would.
type hostStranger struct {
	t *testing.T
	e *Endpoint
	*shmHandshake
	mine greeting
	seq  uint64
}

// hostLimits are the limits of both ends in the tests below: small, so that they are
// reached soon.
var hostLimits = Config{Slots: 2, SlotBytes: 100, HeaderBytes: 10}

// newHostStranger makes one with a connection to e, and memory that e has not mapped yet.
func newHostStranger(t *testing.T, conn *net.UnixConn) *hostStranger {
	t.Helper()
	cfg := hostLimits
	cfg.ID, cfg.PeerTimeout = "x", atLast
	self := endpoint(t, cfg)
	require.NoError(t, self.SetPeer("e", "", 0))
	require.NoError(t, conn.SetDeadline(time.Now().Add(2*atLast)))
	c := &shm.Conn{UnixConn: conn}
	t.Cleanup(func() { c.Close() })
	h, err := newSHMHandshake(self.pairs["e"], c, newHandshakeConn(context.Background(), self, c, nil))
	require.NoError(t, err)
	t.Cleanup(h.releaseAll)
	x := &hostStranger{t: t, shmHandshake: h, mine: self.greeting(pairID{From: "x", To: "e"})}
	x.mine.Doorbell = h.doorbell
	return x
}

// dialHostAs makes one that has sent its hello and mapped e's memory.
func dialHostAs(t *testing.T, addr string) *hostStranger {
	t.Helper()
	conn, err := shm.Dial(t.Context(), strings.TrimPrefix(addr, "shm:"))
	require.NoError(t, err)
	x := newHostStranger(t, conn.UnixConn)
	require.NoError(t, x.hs.sendControl(wire.Hello, x.mine))
	require.NoError(t, x.shmHandshake.readGreeting(wire.Welcome))
	return x
}

// descriptors are those that x's greeting has to carry.
func (x *hostStranger) descriptors() []int {
	return []int{x.segment.FD, x.engine.doorbells.FD(), x.engine.poller.WakeFD()}
}

// greet sends a greeting with descriptors.
func (x *hostStranger) greet(kind wire.Kind, g greeting, fds ...int) {
	x.t.Helper()
	require.NoError(x.t, x.tryGreet(kind, g, fds...))
}

// tryGreet does what greet does where e may have closed the connection.
func (x *hostStranger) tryGreet(kind wire.Kind, g greeting, fds ...int) error {
	b, err := x.hs.encode(kind, g)
	if err == nil {
		_, _, err = x.conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	}
	return err
}

// joined ends the handshake as it should be.
func (x *hostStranger) joined() *hostStranger {
	x.t.Helper()
	x.greet(wire.Ready, x.mine, x.descriptors()...)
	_, err := x.hs.readGreeting(wire.Ready)
	require.NoError(x.t, err)
	return x
}

// signal rings e's doorbell for x.
func (x *hostStranger) signal() {
	x.peerPage.Doorbell(x.peer.Doorbell, x.peerWake).Signal()
}

// publish publishes a descriptor, valid or not, as that of message n.
func (x *hostStranger) publish(n uint64, d shm.Descriptor) {
	x.peerRing.PutDescriptor(n, d)
	x.peerRing.Posted().Store(n + 1)
	x.signal()
}

// post publishes a valid message.
func (x *hostStranger) post(n uint64, slot int, header string) {
	x.peerRing.Publish(n, x.peerRing.Write(slot), []byte(header), time.Now())
	x.signal()
}

// read waits until e has read n messages.
func (x *hostStranger) read(n uint64) {
	x.t.Helper()
	require.Eventually(x.t, func() bool {
		x.e.engine.Load().tryProgress()
		all := x.e.Stats()
		return all[len(all)-1].Received["shm"].Messages == n
	}, atLast, time.Millisecond)
}

// send writes a frame to the connection beside the memory.
func (x *hostStranger) send(f wire.Frame) {
	x.t.Helper()
	x.seq++
	f.Seq = x.seq
	_, err := x.conn.Write(encode(f, zeros(f.Body)))
	require.NoError(x.t, err)
}

// goodbye reads frames up to e's goodbye, and returns the cause.
func (x *hostStranger) goodbye() error {
	x.t.Helper()
	for {
		f, err := wire.ReadControl(x.conn)
		require.NoError(x.t, err)
		if f.Kind == wire.Goodbye {
			cause, err := parseGoodbye(f.Header)
			require.NoError(x.t, err)
			return cause
		}
		require.Equal(x.t, wire.KeepAlive, f.Kind)
	}
}

// hostPair returns an endpoint e that knows x, and another peer c of e.
func hostPair(t *testing.T) (e, c *Endpoint, addr string) {
	t.Helper()
	cfg := hostLimits
	cfg.ID, cfg.PeerTimeout = "e", atLast
	e = endpoint(t, cfg)
	addr = listen(t, e, "shm:127.0.0.1:0")
	c = endpoint(t, Config{ID: "c"})
	require.NoError(t, c.SetPeer("e", addr, 0))
	require.NoError(t, e.SetPeer("c", "", 0))
	require.NoError(t, e.SetPeer("x", "", 0))
	transfer(t, c, e)
	require.Equal(t, "shm", c.Stats()[0].Transport)
	return e, c, addr
}

// TestBreachesInSharedMemory: a peer can write anything into the memory that it shares.
// Both ends get an error that names the breach, and no other pair is touched.
func TestBreachesInSharedMemory(t *testing.T) {
	good := shm.Descriptor{Slot: 1, Header: 0, Spans: 1, Body: 4}
	with := func(change func(*shm.Descriptor)) func(*hostStranger) {
		return func(x *hostStranger) {
			d := good
			change(&d)
			binary.LittleEndian.PutUint32(x.peerRing.Meta(1), 4)
			x.publish(0, d)
		}
	}
	giveBack := func(slots ...int) func(*hostStranger) {
		return func(x *hostStranger) {
			for n, slot := range slots {
				x.ring.PutReturn(uint64(n), slot)
			}
			x.signal()
		}
	}
	for _, tc := range []struct {
		name     string
		received int // messages of x that e receives before the breach
		posts    int // messages that e posts to x
		do       func(*hostStranger)
		want     string
	}{
		{"slot beyond the last", 0, 0, with(func(d *shm.Descriptor) { d.Slot = 2 }), "message 1: bad frame: slot 2 of 2"},
		{"slot that is no int32", 0, 0, with(func(d *shm.Descriptor) { d.Slot = math.MaxUint32 }), "slot 4294967295 of 2"},
		{"slot overrun", 0, 0, with(func(d *shm.Descriptor) { d.Body = 101 }), "it announces 101 bytes of body, the limit is 100"},
		{"body of no size", 0, 0, with(func(d *shm.Descriptor) { d.Body = -1 }), "it announces 18446744073709551615 bytes of body"},
		{"header overrun", 0, 0, with(func(d *shm.Descriptor) { d.Header = 11 }), "it announces 11 bytes of header, the limit is 10"},
		{"spans overrun", 0, 0, with(func(d *shm.Descriptor) { d.Spans = wire.MaxSpans + 1 }), "it announces 65537 spans, the limit is 65536"},
		{"spans that do not add up", 0, 0, with(func(d *shm.Descriptor) { d.Body = 5 }), "the spans have 4 bytes, the body 5"},
		{"slot in use", 1, 0, func(x *hostStranger) { x.post(0, 1, "a"); x.post(1, 1, "b") }, "message 2: bad frame: it is in slot 1, which holds another"},
		{"no credit", 2, 0, func(x *hostStranger) { x.post(0, 0, "a"); x.post(1, 1, "b"); x.read(2); x.post(2, 0, "c") }, "message 3: bad frame: it is in slot 0, which holds another"},
		{"count that jumps", 0, 0, func(x *hostStranger) { x.publish(2, good) }, "it has written 3 messages, of which 0 were read, to 2 slots"},
		{"count that goes back", 1, 0, func(x *hostStranger) {
			x.post(0, 1, "a")
			x.read(1)
			x.peerRing.Posted().Store(0)
			x.signal()
		}, "it has written 0 messages, of which 1 were read"},
		{"return of a slot beyond the last", 0, 3, giveBack(2), "it gives back slot 2, which is not out"},
		{"return of a slot that is no int32", 0, 3, giveBack(math.MaxUint32), "it gives back slot 4294967295, which is not out"},
		{"return twice", 0, 3, giveBack(0, 0), "it gives back slot 0, which is not out"},
		{"returns that jump", 0, 3, func(x *hostStranger) { x.ring.Returned().Store(1 << 40); x.signal() }, "it gives back slot 0, which is not out"},
		{"message on the connection", 0, 0, func(x *hostStranger) { x.send(wire.Frame{Kind: wire.Data}) }, "frame 1: bad frame: a message on the lane of credits"},
		{"credits on the connection", 0, 2, func(x *hostStranger) { x.send(wire.Frame{Kind: wire.KeepAlive, Credits: 1}) }, "frame 1: bad frame: it gives back 1 credits by a frame"},
		{"no frame on the connection", 0, 0, func(x *hostStranger) { _, _ = x.conn.Write(bytes.Repeat([]byte("?"), wire.FixedBytes)) }, `it begins with "????"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, c, addr := hostPair(t)
			x := dialHostAs(t, addr).joined()
			x.e = e
			for range tc.posts {
				_, err := e.Post("x", Message{})
				require.NoError(t, err)
			}
			begin := time.Now()
			tc.do(x)
			kinds := map[Kind]int{}
			var lost Completion
			for lost = pollOne(t, e); lost.Kind != Lost; lost = pollOne(t, e) {
				kinds[lost.Kind]++
			}
			require.Equal(t, tc.received, kinds[Received])
			require.Equal(t, tc.posts, kinds[Sent])
			require.Less(t, time.Since(begin), atLast/2)
			require.ErrorIs(t, lost.Err, ErrBadFrame)
			require.ErrorContains(t, lost.Err, `peer "x" (epoch 0) is lost: `)
			require.ErrorContains(t, lost.Err, tc.want)
			require.ErrorContains(t, x.goodbye(), tc.want, "the peer is told")
			transfer(t, c, e)
			transfer(t, e, c)
		})
	}
}

// TestBreachesInTheSharedMemoryHandshake: descriptors that come with a greeting are checked
// before anything is mapped. The peer is refused and gets the reason, e keeps nothing, and
// a valid handshake succeeds after that.
func TestBreachesInTheSharedMemoryHandshake(t *testing.T) {
	for _, tc := range []struct {
		name  string
		greet func(*hostStranger)
		want  string
	}{
		{"ring beyond the last", func(x *hostStranger) {
			x.mine.Doorbell = shm.MaxDoorbells
			x.greet(wire.Ready, x.mine, x.descriptors()...)
		}, "ring 4096 of 4096"},
		{"ring below the first", func(x *hostStranger) {
			x.mine.Doorbell = -1
			x.greet(wire.Ready, x.mine, x.descriptors()...)
		}, "ring -1 of 4096"},
		{"no descriptors", func(x *hostStranger) { x.greet(wire.Ready, x.mine) }, "0 descriptors came with the greeting, want 3"},
		{"two descriptors", func(x *hostStranger) { x.greet(wire.Ready, x.mine, x.descriptors()[:2]...) }, "2 descriptors came"},
		{"many descriptors", func(x *hostStranger) {
			many := bytes.Repeat([]byte{0}, 40)
			fds := make([]int, len(many))
			for i := range fds {
				fds[i] = x.descriptors()[0]
			}
			x.greet(wire.Ready, x.mine, fds...)
		}, "40 descriptors came"},
		{"ring that can shrink", func(x *hostStranger) {
			x.greet(wire.Ready, x.mine, unsealed(x.t, x.ring.Bytes), x.descriptors()[1], x.descriptors()[2])
		}, "the peer's memory is not sealed"},
		{"board that can shrink", func(x *hostStranger) {
			x.greet(wire.Ready, x.mine, x.descriptors()[0], unsealed(x.t, shm.PageBytes), x.descriptors()[2])
		}, "the peer's memory is not sealed"},
		{"ring of another size", func(x *hostStranger) {
			x.greet(wire.Ready, x.mine, x.descriptors()[1], x.descriptors()[1], x.descriptors()[2])
		}, "the peer's memory has 4096 bytes, announced 5"},
		{"ring of other limits", func(x *hostStranger) {
			x.mine.Slots = 3
			x.greet(wire.Ready, x.mine, x.descriptors()...)
		}, "the peer's memory has 5"},
		{"board of another size", func(x *hostStranger) {
			x.greet(wire.Ready, x.mine, x.descriptors()[0], x.descriptors()[0], x.descriptors()[2])
		}, "bytes, announced 4096"},
		{"ring that is no memory", func(x *hostStranger) {
			x.greet(wire.Ready, x.mine, x.descriptors()[2], x.descriptors()[1], x.descriptors()[2])
		}, "bad frame: the peer's memory: "},
		{"ring beyond all bounds", func(x *hostStranger) {
			x.mine.Slots, x.mine.SlotBytes = 1<<16, maxBytes-1
			x.greet(wire.Ready, x.mine, x.descriptors()...)
		}, "slots of 2147483647 bytes, the limit is 1099511627776"},
		{"hello instead of ready", func(x *hostStranger) { x.greet(wire.Hello, x.mine, x.descriptors()...) }, "type 1 in a handshake"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, c, addr := hostPair(t)
			x := dialHostAs(t, addr)
			before := openFDs(t)
			tc.greet(x)
			_, err := x.hs.readGreeting(wire.Ready)
			require.ErrorIs(t, err, ErrRefused)
			require.ErrorContains(t, err, tc.want)
			// e has closed the connection, its ring and the descriptors of x.
			require.Eventually(t, func() bool { return openFDs(t) <= before-1 }, atLast, time.Millisecond)
			transfer(t, c, e)
			honest := dialHostAs(t, addr).joined()
			honest.post(0, 0, "honest")
			require.Equal(t, "honest", string(pollKind(t, e, Received).Header))
		})
	}
}

// unsealed is a segment that its owner can shrink.
func unsealed(t *testing.T, size int) int {
	t.Helper()
	fd, err := unix.MemfdCreate("unsealed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	require.NoError(t, unix.Ftruncate(fd, int64(size)))
	return fd
}

// hostListener is an abstract socket of another program, under the name that an endpoint
// at addr would use.
func hostListener(t *testing.T) (l *net.UnixListener, addr string) {
	t.Helper()
	port, err := net.Listen("tcp", "127.0.0.1:0") // so that no other process gets the port
	require.NoError(t, err)
	t.Cleanup(func() { port.Close() })
	l, err = net.ListenUnix("unix", shm.SocketName(port.Addr().String()))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l, port.Addr().String()
}

// TestStrangersInThePeersPlace: another program listens where a peer should be, or the
// peer breaks off the handshake.
func TestStrangersInThePeersPlace(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		answer func(*testing.T, *net.UnixConn)
		want   error
		text   string
	}{
		{"another protocol", func(_ *testing.T, c *net.UnixConn) {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
		}, ErrBadFrame, `it begins with "HTTP"`},
		{"closes", func(*testing.T, *net.UnixConn) {}, nil, "shm: "},
		{"says nothing", func(_ *testing.T, c *net.UnixConn) { _, _ = io.Copy(io.Discard, c) }, os.ErrDeadlineExceeded, "handshake: "},
		{"gives bad memory", func(t *testing.T, c *net.UnixConn) {
			x := newHostStranger(t, c)
			if _, err := x.hs.readGreeting(wire.Hello); err == nil {
				_ = x.tryGreet(wire.Welcome, x.mine, x.descriptors()[2], x.descriptors()[1], x.descriptors()[2])
			}
		}, ErrBadFrame, "the peer's memory"},
		{"breaks off after its memory", func(t *testing.T, c *net.UnixConn) {
			x := newHostStranger(t, c)
			if _, err := x.hs.readGreeting(wire.Hello); err == nil {
				_ = x.tryGreet(wire.Welcome, x.mine, x.descriptors()...)
			}
		}, nil, "shm: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, addr := hostListener(t)
			served := make(chan struct{})
			go func() {
				defer close(served)
				for {
					c, err := l.AcceptUnix()
					if err != nil {
						return
					}
					tc.answer(t, c)
					c.Close()
				}
			}()
			t.Cleanup(func() { l.Close(); <-served })
			cfg := hostLimits
			cfg.ID, cfg.DialTimeout = "e", slowness*300*time.Millisecond
			e := endpoint(t, cfg)
			require.NoError(t, e.SetPeer("x", "shm:"+addr, 0))
			c := endpoint(t, Config{ID: "c"})
			require.NoError(t, c.SetPeer("e", listen(t, e, "shm:127.0.0.1:0"), 0))
			require.NoError(t, e.SetPeer("c", "", 0))
			transfer(t, c, e) // c dials, since e's DialTimeout is short
			begin := time.Now()
			_, err := e.Post("x", Message{})
			require.NoError(t, err)
			require.Error(t, pollKind(t, e, Sent).Err)
			lost := pollKind(t, e, Lost)
			require.Less(t, time.Since(begin), atLast)
			require.ErrorContains(t, lost.Err, `peer "x" (epoch 0) is lost: connecting to shm:`+addr)
			require.ErrorContains(t, lost.Err, tc.text)
			if tc.want != nil {
				require.ErrorIs(t, lost.Err, tc.want)
			}
			transfer(t, e, c)
		})
	}
}

// TestStrangersAtTheHostsSocket: programs that are no endpoints dial.
func TestStrangersAtTheHostsSocket(t *testing.T) {
	e, c, addr := hostPair(t)
	dial := func() *net.UnixConn {
		conn, err := shm.Dial(t.Context(), strings.TrimPrefix(addr, "shm:"))
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(2*atLast)))
		return conn.UnixConn
	}
	http := dial()
	_, err := io.WriteString(http, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: none\r\nAccept: */*\r\n\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(http)
	if !errors.Is(err, unix.ECONNRESET) { // e has closed with bytes unread
		require.NoError(t, err)
	}
	require.Contains(t, string(answer), `it begins with \"GET \"`)

	version := dial()
	b := encode(wire.Frame{Kind: wire.Hello}, nil)
	b[4] = 9
	_, err = version.Write(b)
	require.NoError(t, err)
	answer, err = io.ReadAll(version)
	require.NoError(t, err)
	require.Contains(t, string(answer), "protocol version 9, this end speaks 2")
	transfer(t, c, e)
}

// TestWakeThatIsNoEventFD: the descriptor by which a peer is to be woken is a pipe that is
// full. Post does not wait for it.
func TestWakeThatIsNoEventFD(t *testing.T) {
	e, c, addr := hostPair(t)
	var pipe [2]int
	require.NoError(t, unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	t.Cleanup(func() { shm.CloseFDs(pipe[:]) })
	for _, err := unix.Write(pipe[1], zeros(4096)); err == nil; _, err = unix.Write(pipe[1], zeros(4096)) {
	}
	require.NoError(t, unix.SetNonblock(pipe[1], false))
	x := dialHostAs(t, addr)
	x.greet(wire.Ready, x.mine, x.descriptors()[0], x.descriptors()[1], pipe[1])
	_, err := x.hs.readGreeting(wire.Ready)
	require.NoError(t, err)
	require.False(t, x.engine.doorbells.PrepareSleep())
	posted := make(chan error, 1)
	go func() {
		_, err := e.Post("x", Message{})
		posted <- err
	}()
	select {
	case err := <-posted:
		require.NoError(t, err)
	case <-time.After(atLast):
		require.Fail(t, "Post waits for the peer's pipe")
	}
	asleep := make([]byte, 4) // as x's page begins
	_, err = unix.Pread(x.engine.doorbells.FD(), asleep, 0)
	require.NoError(t, err)
	require.Equal(t, zeros(4), asleep, "it was woken")
	require.NoError(t, pollKind(t, e, Sent).Err)
	transfer(t, c, e)
}

// TestOlderEpochsInSharedMemory: the handshake of an older incarnation is refused, and its
// frames on the connection beside the memory are dropped and counted.
func TestOlderEpochsInSharedMemory(t *testing.T) {
	e, c, addr := hostPair(t)
	require.NoError(t, e.SetPeer("x", "", 3))
	dial := func(epoch uint64) *hostStranger {
		conn, err := shm.Dial(t.Context(), strings.TrimPrefix(addr, "shm:"))
		require.NoError(t, err)
		x := newHostStranger(t, conn.UnixConn)
		x.mine.FromEpoch = epoch
		require.NoError(t, x.hs.sendControl(wire.Hello, x.mine))
		return x
	}
	_, err := dial(2).hs.readGreeting(wire.Welcome)
	require.ErrorIs(t, err, ErrRefused)
	require.ErrorContains(t, err, `peer "x" has epoch 2, "e" knows epoch 3`)
	x := dial(3)
	require.NoError(t, x.shmHandshake.readGreeting(wire.Welcome))
	x.joined()
	x.send(wire.Frame{Kind: wire.KeepAlive, Epoch: 2, Credits: 1})
	x.send(wire.Frame{Kind: wire.KeepAlive, Epoch: 3})
	x.post(0, 0, "new")
	require.Equal(t, "new", string(pollKind(t, e, Received).Header))
	require.Eventually(t, func() bool { return e.Stats()[1].DroppedOld == 2 }, atLast, time.Millisecond)
	transfer(t, c, e)
}

func openFDs(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(all)
}

// fuzzedRing is an endpoint's pair with a peer in shared memory, without the peer: the test
// writes into the memory what a peer could.
type fuzzedRing struct {
	e         *Endpoint
	transport *shmTransport
	control   [2][]byte // of the rings in and out: counts, descriptors and returns, a page with two slots
	held      []Completion
	region    *Region
}

// unheardDoorbell is a doorbell whose owner does not listen.
func unheardDoorbell(tb testing.TB) shm.Doorbell {
	tb.Helper()
	own, err := shm.NewPage()
	require.NoError(tb, err)
	defer own.Close()
	fd, err := unix.Dup(own.FD())
	require.NoError(tb, err)
	page, err := shm.MapPage(fd)
	require.NoError(tb, err)
	tb.Cleanup(page.Close)
	return page.Doorbell(0, -1)
}

func newFuzzedRing(tb testing.TB) *fuzzedRing {
	tb.Helper()
	cfg := hostLimits
	cfg.ID = "e"
	e, err := NewEndpoint(cfg)
	require.NoError(tb, err)
	layout, err := e.limits().layout()
	require.NoError(tb, err)
	inMem, outMem := zeros(layout.Bytes), zeros(layout.Bytes)
	in, out := shm.NewRing(inMem, layout), shm.NewRing(outMem, layout)
	p := newPair(e, "x", "", 0, new(counters))
	s := e.newWindow()
	s.region = &Region{Bytes: in.Bodies()}
	l := &wireLink{pair: p, kind: viaSHM, window: s}
	c := newSHMTransport(l, in, out, unheardDoorbell(tb), func() {})
	l.transport = c
	p.mu.Lock()
	p.markUp(l, e.limits())
	p.mu.Unlock()
	control := [2][]byte{inMem[:shm.PageBytes], outMem[:shm.PageBytes]}
	return &fuzzedRing{e: e, transport: c, control: control, region: e.Register(zeros(hostLimits.SlotBytes), nil)}
}

// Operations of a script of FuzzSHMTransport, with the number of bytes that each argument has.
const (
	writeControl = iota // at an offset (2): the counts, descriptors, returns
	writeMeta           // of slot (1) of the ring that is received from
	addPosted           // (1) messages
	receiveAll
	releaseOne
	postOne // a message to the peer
	fuzzedOps
)

// run runs a script and returns the errors of receiving.
func (f *fuzzedRing) run(script []byte) (failed error) {
	r := bytes.NewReader(script)
	next := func() int { b, _ := r.ReadByte(); return int(b) } // 0 at the end
	for r.Len() > 0 && failed == nil {
		switch next() % fuzzedOps {
		case writeControl:
			control := f.control[next()%2]
			at := (next() | next()<<8) % len(control)
			_, _ = io.ReadFull(r, control[at:min(at+next()%80, len(control))])
		case writeMeta:
			meta := f.transport.in.Meta(next() % hostLimits.Slots)
			_, _ = io.ReadFull(r, meta[:min(next(), len(meta))])
		case addPosted:
			f.transport.in.Posted().Add(uint64(next()))
		case receiveAll:
			failed = f.transport.receive()
			f.popAll()
		case releaseOne:
			if len(f.held) > 0 {
				f.e.Release(f.held[0])
				f.held = f.held[1:]
			}
		case postOne:
			_, _ = f.e.Post("x", Message{Body: []Span{{f.region, 0, next() % hostLimits.SlotBytes}}})
			f.transport.flush()
		}
	}
	return failed
}

// popAll pops all completions, and holds the messages.
func (f *fuzzedRing) popAll() {
	for c, ok := f.e.completions.pop(); ok; c, ok = f.e.completions.pop() {
		if c.Kind == Received {
			f.held = append(f.held, c)
		}
	}
}

// FuzzSHMTransport: whatever a peer writes into the memory that it shares, receiving gives
// messages within their slots or an error that wraps ErrBadFrame, and allocates no more
// than the limits allow.
func FuzzSHMTransport(f *testing.F) {
	le := binary.LittleEndian
	message := func(slot, header, spans uint32, body uint64) []byte {
		d := append([]byte{writeControl, 0, shm.RingHeaderBytes, 0, 32}, make([]byte, 32)...)
		le.PutUint32(d[5:], slot)
		le.PutUint32(d[9:], header)
		le.PutUint32(d[13:], spans)
		le.PutUint64(d[21:], body)
		return append(d, writeMeta, byte(slot), 8, 4, 0, 0, 0, 'h', 'e', 'a', 'd', addPosted, 1, receiveAll)
	}
	f.Add(message(1, 4, 1, 4))
	f.Add(append(message(1, 4, 1, 4), addPosted, 1, receiveAll, releaseOne, receiveAll))
	f.Add(message(2, 4, 1, 4))
	f.Add(message(0, 4, 1<<31, 4))
	f.Add(message(0, 0, wire.MaxSpans, 0))
	f.Add(message(0, 4, 1, 1<<40)[:20])
	f.Add([]byte{addPosted, 200, receiveAll})
	f.Add([]byte{postOne, 5, postOne, 5, writeControl, 1, 64, 0, 1, 9, postOne, 7})
	f.Fuzz(func(t *testing.T, script []byte) {
		r := newFuzzedRing(t)
		require.NoError(t, r.e.SetPeer("x", "", 0))
		r.e.pairs["x"] = r.transport.link.pair
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := r.run(script)
		runtime.ReadMemStats(&after)
		if err != nil {
			require.ErrorIs(t, err, ErrBadFrame)
		}
		require.LessOrEqual(t, len(r.held), hostLimits.Slots)
		for _, c := range r.held {
			requireWithinASlot(t, r.transport.in.Layout, c)
		}
		// Meta, lengths and spans of a message, each once, for every op that can take
		// one.
		perOp := uint64(4*wire.MaxSpans+8*wire.MaxSpans+24*wire.MaxSpans+hostLimits.HeaderBytes) + 4<<10
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<10)+perOp*uint64(bytes.Count(script, []byte{addPosted})+len(script)/fuzzedOps+hostLimits.Slots))
		closeNow(r.e)
	})
}

// requireWithinASlot: the spans of a message follow each other within one slot.
func requireWithinASlot(t *testing.T, l shm.Layout, c Completion) {
	t.Helper()
	if len(c.Body) == 0 {
		return
	}
	at := c.Body[0].Off
	slot := at / l.Stride
	require.Zero(t, at%l.Stride)
	require.Less(t, slot, l.Slots)
	for i, s := range c.Body {
		require.Equal(t, at, s.Off, fmt.Sprintf("span %d", i))
		require.GreaterOrEqual(t, s.Len, 0)
		at += s.Len
	}
	require.LessOrEqual(t, at, slot*l.Stride+l.SlotBytes)
}
