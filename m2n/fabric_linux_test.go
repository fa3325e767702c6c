package m2n

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// toyFabrics is a fabric in memory, for tests: a send copies at once, and
// the events of both ends come in an order of its own.
type toyFabrics struct {
	mu   sync.Mutex
	all  map[string]*toyFabric
	rand *rand.Rand
	drop bool // messages get lost, and their Sent does not come
}

func newToyFabrics(seed uint64) *toyFabrics {
	return &toyFabrics{all: make(map[string]*toyFabric), rand: rand.New(rand.NewPCG(seed, 0))}
}

func (w *toyFabrics) join(t testing.TB, name string) *toyFabric {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	require.NoError(t, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	f := &toyFabric{world: w, name: "toy", address: fmt.Sprintf("%s %d", name, len(w.all)), fd: fd, conns: make(map[uint64]*toyConn)}
	w.all[f.address] = f
	return f
}

// toyFabric is the fabric of one end. The world's lock guards all fields.
type toyFabric struct {
	world         *toyFabrics
	name, address string
	fd            int
	conns         map[uint64]*toyConn
	events        []FabricEvent
	keys          uint64
	registered    int
	closed        bool
}

type toyConn struct {
	f      *toyFabric
	in     FabricReceiver
	key    uint64
	full   []bool
	peer   *toyFabric
	theirs uint64
	flying []uint64
	closed bool
}

func (f *toyFabric) Name() string    { return f.name }
func (f *toyFabric) Address() []byte { return []byte(f.address) }
func (f *toyFabric) EventFD() int    { return f.fd }

func (f *toyFabric) Register(*Region) error {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	f.registered++
	return nil
}

func (f *toyFabric) Open(r FabricReceiver) (FabricConn, error) {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	f.keys++
	c := &toyConn{f: f, in: r, key: f.keys, full: make([]bool, r.Slots)}
	f.conns[c.key] = c
	return c, nil
}

func (f *toyFabric) Arm() (bool, error) {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	var b [8]byte
	_, _ = unix.Read(f.fd, b[:]) // there may be nothing
	return len(f.events) == 0, nil
}

func (f *toyFabric) push(ev FabricEvent) {
	if f.closed { // its descriptor may be another file's by now
		return
	}
	f.events = append(f.events, ev)
	_, _ = unix.Write(f.fd, binary.NativeEndian.AppendUint64(nil, 1)) // fails after 2^64 events
}

// Progress reports some events, in any order but that a connection's last one
// comes last.
func (f *toyFabric) Progress(events []FabricEvent) (n int) {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	for n < len(events) && len(f.events) > 0 {
		i := f.world.rand.IntN(len(f.events))
		if f.events[i].Kind == FabricClosed {
			i = 0
		}
		events[n] = f.events[i]
		f.events = append(f.events[:i], f.events[i+1:]...)
		n++
	}
	return n
}

func (f *toyFabric) Close(context.Context) error {
	f.world.mu.Lock()
	defer f.world.mu.Unlock()
	if f.closed {
		return errors.New("closed twice")
	}
	f.closed = true
	f.events = nil
	delete(f.world.all, f.address)
	return unix.Close(f.fd)
}

func (c *toyConn) Key() uint64 { return c.key }

func (c *toyConn) Connect(address []byte, key uint64) error {
	c.f.world.mu.Lock()
	defer c.f.world.mu.Unlock()
	c.peer, c.theirs = c.f.world.all[string(address)], key
	if c.peer == nil {
		return fmt.Errorf("there is no %q", address)
	}
	return nil
}

func (c *toyConn) Send(token uint64, header []byte, body []Span) error {
	w := c.f.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.closed {
		return errors.New("the connection is closed")
	}
	if w.drop {
		c.flying = append(c.flying, token)
		return nil
	}
	c.f.push(FabricEvent{Kind: FabricSent, Owner: c.in.Owner, Token: token})
	if to := c.peer.conns[c.theirs]; to != nil && !to.closed {
		to.arrive(header, body)
	}
	return nil
}

func (c *toyConn) arrive(header []byte, body []Span) {
	slot := -1
	for i := range c.full {
		if !c.full[i] {
			slot = i
		}
	}
	if slot < 0 {
		c.f.push(FabricEvent{Kind: FabricFailed, Owner: c.in.Owner, Err: errors.New("no slot")})
		return
	}
	c.full[slot] = true
	n := 0
	for _, s := range body {
		n += copy(c.in.Memory.Bytes[slot*c.in.Stride+n:][:c.in.SlotBytes-n], s.Bytes())
	}
	c.f.push(FabricEvent{Kind: FabricReceived, Owner: c.in.Owner, Header: append([]byte(nil), header...), Slot: slot, Body: n})
}

func (c *toyConn) Refill(slot int) {
	c.f.world.mu.Lock()
	defer c.f.world.mu.Unlock()
	c.full[slot] = false
}

func (c *toyConn) Close() {
	c.f.world.mu.Lock()
	defer c.f.world.mu.Unlock()
	if c.closed || c.f.closed {
		return
	}
	c.closed = true
	delete(c.f.conns, c.key)
	for _, token := range c.flying {
		c.f.push(FabricEvent{Kind: FabricSent, Owner: c.in.Owner, Token: token, Err: errors.New("cancelled")})
	}
	c.f.push(FabricEvent{Kind: FabricClosed, Owner: c.in.Owner})
}

// fabricDuo is two endpoints that know each other by ucx: addresses.
func fabricDuo(t testing.TB, w *toyFabrics, change func(*Config)) (a, b *Endpoint) {
	return wireDuo(t, "ucx", func(c *Config) {
		c.PeerTimeout = testTimeout
		c.Fabric = w.join(t, c.ID)
		if change != nil {
			change(c)
		}
	})
}

// TestFabricOrder: messages that overtake each other are delivered in order, with
// few slots and both ways.
func TestFabricOrder(t *testing.T) {
	const messages = 200
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			a, b := fabricDuo(t, newToyFabrics(seed), func(c *Config) { c.Slots = 1 + int(seed); c.Queue = messages })
			region := a.Register(make([]byte, 8*messages), nil)
			for i := range messages {
				binary.LittleEndian.PutUint64(region.Bytes[8*i:], uint64(i))
				m := Message{Header: []byte{byte(i)}, Body: []Span{{region, 8 * i, 3}, {region, 8*i + 3, 5}}}
				_, err := a.Post("b", m)
				require.NoError(t, err)
				_, err = b.Post("a", Message{Header: []byte{byte(i)}, Body: []Span{{region, 8 * i, 8}}})
				require.NoError(t, err)
			}
			var done sync.WaitGroup
			for _, e := range []*Endpoint{a, b} {
				done.Go(func() { takeInOrder(t, e, messages) })
			}
			done.Wait()
			require.Equal(t, uint64(messages), b.Stats()[0].Received["ucx"].Messages)
			require.Equal(t, "ucx", a.Stats()[0].Transport)
			require.Equal(t, 1, a.cfg.Fabric.(*toyFabric).registered)
		})
	}
}

func takeInOrder(t *testing.T, e *Endpoint, messages int) {
	received, sent := 0, 0
	for received < messages || sent < messages {
		c := pollOne(t, e)
		require.NoError(t, c.Err)
		if c.Kind == Sent {
			sent++
			continue
		}
		require.Equal(t, []byte{byte(received)}, c.Header)
		var body []byte
		for _, s := range c.Body {
			body = append(body, s.Bytes()...)
		}
		require.Equal(t, uint64(received), binary.LittleEndian.Uint64(body))
		received++
		e.Release(c)
	}
}

// TestFabricOrElse: where the ends have no fabric of the same name they use TCP. Where the
// address allows nothing else, the error says why the fabric was not used.
func TestFabricOrElse(t *testing.T) {
	w := newToyFabrics(1)
	other := w.join(t, "other")
	other.name = "another"
	for name, fabrics := range map[string][2]Fabric{
		"no fabric here":  {nil, w.join(t, "b")},
		"no fabric there": {w.join(t, "a"), nil},
		"another there":   {w.join(t, "a"), other},
	} {
		t.Run(name, func(t *testing.T) {
			make := func(id string, f Fabric) *Endpoint {
				return endpoint(t, Config{ID: id, Epoch: 1, Fabric: f, DialTimeout: slowness * 300 * time.Millisecond})
			}
			a, b := make("a", fabrics[0]), make("b", fabrics[1])
			at := listen(t, b, "ucx+tcp:127.0.0.1:0")
			require.NoError(t, b.SetPeer("a", "", 1))
			require.NoError(t, a.SetPeer("b", at, 1))
			_, err := a.Post("b", Message{Header: []byte("hello")})
			require.NoError(t, err)
			require.Equal(t, []byte("hello"), pollOne(t, b).Header)
			require.Equal(t, "tcp", b.Stats()[0].Transport)

			c := endpoint(t, Config{ID: "c", Epoch: 1, DialTimeout: slowness * 100 * time.Millisecond})
			require.NoError(t, c.SetPeer("b", "ucx"+at[len("ucx+tcp"):], 1))
			_, err = c.Post("b", Message{})
			require.NoError(t, err)
			require.ErrorContains(t, requireLost(t, c, "b"), "ucx: this end has no fabric")
		})
	}
}

// TestFabricGoodbye: what was sent before a close is received before the loss,
// although the goodbye travels by another connection.
func TestFabricGoodbye(t *testing.T) {
	for seed := range uint64(4) {
		const messages = 8
		a, b := fabricDuo(t, newToyFabrics(seed), nil)
		for i := range messages {
			_, err := a.Post("b", Message{Header: []byte{byte(i)}})
			require.NoError(t, err)
		}
		for range messages {
			require.Equal(t, Sent, pollOne(t, a).Kind)
		}
		var closed sync.WaitGroup
		closed.Go(func() { require.NoError(t, a.Close(t.Context())) })
		for i := range messages {
			c := pollOne(t, b)
			require.Equal(t, Received, c.Kind)
			require.Equal(t, []byte{byte(i)}, c.Header)
			b.Release(c)
		}
		require.ErrorIs(t, requireLost(t, b, "a"), ErrClosed)
		closed.Wait()
	}
}

// TestFabricLosesMessages: a fabric that swallows messages holds up neither the
// loss of the peer nor the close, and each message is reported.
func TestFabricLosesMessages(t *testing.T) {
	w := newToyFabrics(1)
	a, b := fabricDuo(t, w, nil)
	_, err := a.Post("b", Message{})
	require.NoError(t, err)
	require.Equal(t, Received, pollOne(t, b).Kind)
	require.Equal(t, Sent, pollOne(t, a).Kind)
	w.mu.Lock()
	w.drop = true
	w.mu.Unlock()
	token, err := a.Post("b", Message{Header: []byte("swallowed")})
	require.NoError(t, err)
	require.NoError(t, a.SetPeer("b", "", 2)) // closes the pair
	require.ErrorIs(t, requireLost(t, b, "a"), ErrReplaced)
	kinds := map[Kind]int{}
	for kinds[Sent] == 0 || kinds[Lost] == 0 {
		c := pollOne(t, a)
		kinds[c.Kind]++
		if c.Kind == Sent {
			require.Equal(t, token, c.Token)
			require.ErrorIs(t, c.Err, ErrReplaced)
		}
	}
	require.Eventually(t, func() bool { return len(a.hub().all()) == 0 && len(b.hub().all()) == 0 }, 5*time.Second, time.Millisecond)
}

// TestFabricMemoryGoesBack: messages of a lost pair that wait for one before them, or that
// the consumer has not polled, give their slots back.
func TestFabricMemoryGoesBack(t *testing.T) {
	var memory memoryMeter
	w := newToyFabrics(1)
	a, b := fabricDuo(t, w, func(c *Config) {
		if c.ID == "b" {
			memory.watch(c)
		}
	})
	transfer(t, a, b)
	for _, number := range []uint64{2, 4} {
		f := wire.Frame{Kind: wire.Data, Epoch: 1, Seq: number, Number: number}
		w.mu.Lock()
		b.hub().all()[0].conn.(*toyConn).arrive(wire.AppendFrame(nil, &f), nil)
		w.mu.Unlock()
	}
	require.Eventually(t, func() bool { return b.Stats()[0].Received["ucx"].Messages == 2 }, atLast, time.Millisecond)
	closeNow(a)
	require.ErrorIs(t, requireLost(t, b, "a"), ErrClosed)
	memory.requireFreed(t, 0)
}

// TestFabricBadFrames: bytes that are no valid frame fail the pair, and the error says why.
func TestFabricBadFrames(t *testing.T) {
	good := wire.Frame{Kind: wire.Data, Epoch: 1, Number: 2, Lengths: []int{3}, Body: 3, Header: []byte("abcdef")}
	change := func(change func(*wire.Frame)) []byte {
		f := good
		change(&f)
		return wire.AppendFrame(nil, &f)
	}
	flip := wire.AppendFrame(nil, &good)
	flip[70] ^= 1
	for name, tc := range map[string]struct {
		header []byte
		body   int
		want   string
	}{
		"short":            {flip[:20], 3, "it has 20 bytes before the body"},
		"flipped":          {flip, 3, "the checksum of the header is"},
		"cut":              {wire.AppendFrame(nil, &good)[:66], 3, "announced 10 and 3"},
		"another body":     {wire.AppendFrame(nil, &good), 2, "of lengths and header and 2 of body"},
		"another type":     {change(func(f *wire.Frame) { f.Kind = wire.KeepAlive; f.Body, f.Lengths = 0, nil }), 0, "type 6"},
		"another epoch":    {change(func(f *wire.Frame) { f.Epoch = 7 }), 3, "epoch 7"},
		"an old number":    {change(func(f *wire.Frame) { f.Number = 1 }), 3, "message 1,"},
		"too far ahead":    {change(func(f *wire.Frame) { f.Number = 100 }), 3, "message 100,"},
		"too many credits": {change(func(f *wire.Frame) { f.Credits = 100 }), 3, "100 credits"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newToyFabrics(1)
			a, b := fabricDuo(t, w, nil)
			_, err := a.Post("b", Message{})
			require.NoError(t, err)
			require.Equal(t, Received, pollOne(t, b).Kind)
			region := &Region{Bytes: make([]byte, tc.body)}
			w.mu.Lock()
			b.hub().all()[0].conn.(*toyConn).arrive(tc.header, []Span{{region, 0, tc.body}})
			w.mu.Unlock()
			lost := requireLost(t, b, "a")
			require.ErrorIs(t, lost, ErrBadFrame)
			require.ErrorContains(t, lost, tc.want)
		})
	}
}

// FuzzFabricFrame: whatever a fabric delivers, parsing it allocates within the
// limits, and what is accepted is encoded again as it was.
func FuzzFabricFrame(f *testing.F) {
	valid := wire.AppendFrame(nil, &wire.Frame{Kind: wire.Data, Epoch: 1, Seq: 2, Number: 2, Credits: 1, Lengths: []int{3, 0, 4}, Body: 7, Header: []byte("header")})
	f.Add(valid, 7)
	f.Add(valid[:70], 7)
	f.Add(valid, 8)
	f.Add(wire.AppendFrame(nil, &wire.Frame{Kind: wire.Data, Epoch: 1, Number: 9}), 0)
	e := &Endpoint{cfg: Config{HeaderBytes: 100, SlotBytes: 1000, Slots: 8}}
	c := &fabricTransport{pair: &pair{ep: e, epoch: 1}}
	f.Fuzz(func(t *testing.T, b []byte, body int) {
		got, err := c.parse(&FabricEvent{Header: b, Body: body})
		if err != nil {
			require.Less(t, len(err.Error()), 500)
			return
		}
		require.LessOrEqual(t, len(got.Header), 100)
		require.LessOrEqual(t, 4*len(got.Lengths), len(b))
		require.Equal(t, body, got.Body)
		require.Equal(t, b, wire.AppendFrame(nil, &got))
	})
}
