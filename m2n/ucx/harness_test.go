//go:build ucx && cgo

package ucx

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n"
)

// transports are UCX's that work on any machine.
var transports = []string{"tcp", "posix,self", "posix,cma,self"}

// patience bounds every wait of these tests.
const patience = 10 * time.Second

func open(t testing.TB, tls string) *Fabric {
	t.Helper()
	f, err := Open(Config{Options: map[string]string{"TLS": tls, "KEEPALIVE_INTERVAL": "200ms"}})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, f.Close(ctx))
	})
	return f.(*Fabric)
}

// layout is a receiver of n slots.
func layout(owner any, slots, slotBytes, headerBytes int) m2n.FabricReceiver {
	return m2n.FabricReceiver{
		Owner: owner, Memory: &m2n.Region{Bytes: make([]byte, slots*slotBytes)},
		Stride: slotBytes, Slots: slots, SlotBytes: slotBytes, HeaderBytes: headerBytes,
	}
}

// end is one end of a connection, and what has happened to it.
type end struct {
	m2n.FabricConn
	fabric   *Fabric
	in       m2n.FabricReceiver
	received []m2n.FabricEvent
	sent     []m2n.FabricEvent
	failed   error
	closed   bool
}

func newEnd(t testing.TB, f *Fabric, slots, slotBytes, headerBytes int) *end {
	t.Helper()
	e := &end{fabric: f}
	e.in = layout(e, slots, slotBytes, headerBytes)
	c, err := f.Open(e.in)
	require.NoError(t, err)
	e.FabricConn = c
	return e
}

// connect makes a connection between two fabrics.
func connect(t testing.TB, a, b *end) {
	t.Helper()
	require.NoError(t, a.Connect(b.fabric.Address(), b.Key()))
	require.NoError(t, b.Connect(a.fabric.Address(), a.Key()))
}

// slot is the message of an event.
func (e *end) slot(ev m2n.FabricEvent) []byte {
	return e.in.Memory.Bytes[ev.Slot*e.in.Stride:][:ev.Body]
}

func (e *end) note(ev m2n.FabricEvent) {
	switch ev.Kind {
	case m2n.FabricSent:
		e.sent = append(e.sent, ev)
	case m2n.FabricReceived:
		e.received = append(e.received, ev)
	case m2n.FabricFailed:
		e.failed = ev.Err
	case m2n.FabricClosed:
		e.closed = true
	}
}

// step lets fabrics work once.
func step(fabrics ...*Fabric) (n int) {
	var events [16]m2n.FabricEvent
	for _, f := range fabrics {
		for _, ev := range events[:f.Progress(events[:])] {
			ev.Owner.(*end).note(ev)
			n++
		}
	}
	return n
}

// until lets the fabrics of ends work until a condition holds.
func until(t testing.TB, what string, done func() bool, ends ...*end) {
	t.Helper()
	var fabrics []*Fabric
	for _, e := range ends {
		fabrics = append(fabrics, e.fabric)
	}
	for deadline := time.Now().Add(patience); !done(); {
		require.True(t, time.Now().Before(deadline), "%s did not happen within %v", what, patience)
		if step(fabrics...) == 0 && len(fabrics) == 1 {
			wait(t, fabrics[0], 20*time.Millisecond)
		}
	}
}

// wait waits for a fabric's descriptor, as an event loop does, and reports whether
// it was readable or there was work at once.
func wait(t testing.TB, f *Fabric, limit time.Duration) bool {
	t.Helper()
	armed, err := f.Arm()
	require.NoError(t, err)
	if !armed {
		return true
	}
	fds := []unix.PollFd{{Fd: int32(f.EventFD()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(limit.Milliseconds()))
	if !errors.Is(err, unix.EINTR) {
		require.NoError(t, err)
	}
	return n > 0
}

// random is a region of bytes that depend on the seed alone.
func random(seed uint64, n int) *m2n.Region {
	b := make([]byte, n)
	fill := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = fill.Read(b) // never fails
	return &m2n.Region{Bytes: b}
}

// cut makes n spans of a region's first bytes, with gaps between them where it is
// long enough, and returns what they hold.
func cut(r *m2n.Region, bytes, n int) (body []m2n.Span, content []byte) {
	if n == 0 {
		return nil, nil
	}
	gap := max(0, len(r.Bytes)-bytes) / n
	for i, at := 0, 0; i < n; i++ {
		size := bytes*(i+1)/n - bytes*i/n
		body = append(body, m2n.Span{Region: r, Off: at, Len: size})
		content = append(content, r.Bytes[at:at+size]...)
		at += size + gap
	}
	return body, content
}
