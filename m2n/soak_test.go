//go:build linux

package m2n

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	soakFor      = flag.Duration("soak.for", 0, "how long TestSoak runs at least; 0: as long as a test may")
	soakConnects = flag.Int("soak.connects", 100_000, "how often TestSoak connects at least, where it has -soak.for")
)

// What TestSoak does without -soak.for: connects in all, and how many of those come
// before the first look at what is in use.
const (
	shortConnects = 1200
	warmConnects  = 300
)

// TestSoak: peers of a hub connect, exchange messages, and end in every possible way, again
// and again, by TCP, TLS and shared memory at once. They leave no goroutine, descriptor,
// mapping or memory behind. Meanwhile a pair of each hub that does not end goes on. `make
// soak` runs it for minutes.
func TestSoak(t *testing.T) {
	total, end := shortConnects, time.Now()
	switch {
	case *soakFor > 0:
		total, end = *soakConnects, time.Now().Add(*soakFor)
	case testing.Short():
		total /= 2
	}
	s := newSoak(t)
	s.run(func(done int64) bool { return done < warmConnects })
	before := s.measure()
	begin := time.Now()
	s.run(func(done int64) bool { return done < int64(total) || time.Now().Before(end) })
	t.Logf("%d connects, kills and reconnects, %.0f/s; %d messages on pairs beside them",
		s.done.Load(), float64(s.done.Load()-warmConnects)/time.Since(begin).Seconds(), s.steady.Load())
	s.requireNoMore(before)
}

// soak is a hub for each transport, and workers that are its peers.
type soak struct {
	t      *testing.T
	hubs   []*soakHub
	done   atomic.Int64 // connects and their ends
	steady atomic.Int64 // messages on the pairs that stay
}

type soakHub struct {
	*Endpoint
	addr    string
	change  func(*Config)
	workers []*soakWorker
	steady  *Endpoint
}

// soakWorker is one peer: one incarnation after the other.
type soakWorker struct {
	hub   *soakHub
	id    string
	epoch uint64
	rand  *rand.Rand
}

var soakLimits = Config{SlotBytes: 4 << 10, Slots: 2, HeaderBytes: 100, PeerTimeout: atLast, DialTimeout: 2 * atLast}

func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{t: t}
	for _, scheme := range []string{"tcp", "tls", "shm"} {
		h := &soakHub{change: func(*Config) {}}
		if scheme == "tls" {
			h.change, scheme = secured, "tcp"
		}
		h.Endpoint = h.endpoint(t, "hub", 0)
		h.addr = listen(t, h.Endpoint, scheme+":127.0.0.1:0")
		h.steady = h.endpoint(t, "steady", 0)
		require.NoError(t, h.steady.SetPeer("hub", h.addr, 0))
		require.NoError(t, h.SetPeer("steady", "", 0))
		for i := range 2 {
			h.workers = append(h.workers, &soakWorker{hub: h, id: fmt.Sprint(i), rand: rand.New(rand.NewPCG(uint64(i), uint64(len(s.hubs))))})
		}
		s.hubs = append(s.hubs, h)
	}
	return s
}

func (h *soakHub) endpoint(t *testing.T, id string, epoch uint64) *Endpoint {
	cfg := soakLimits
	cfg.ID, cfg.Epoch = id, epoch
	h.change(&cfg)
	return endpoint(t, cfg)
}

// run has all workers work as long as more returns true, and returns when they are idle.
func (s *soak) run(more func(done int64) bool) {
	exchange, stopExchange := context.WithCancel(s.t.Context())
	answer, stopAnswer := context.WithCancel(s.t.Context())
	var answering, exchanging, workers sync.WaitGroup
	for _, h := range s.hubs {
		answering.Go(func() { h.answer(answer) })
		exchanging.Go(func() { s.exchange(exchange, h) })
		for _, w := range h.workers {
			workers.Go(func() {
				for more(s.done.Load()) && !s.t.Failed() {
					w.live(s.t)
					s.done.Add(1)
				}
			})
		}
	}
	workers.Wait()
	stopExchange()
	exchanging.Wait()
	stopAnswer()
	answering.Wait()
}

// lastHeader is the header of messages that are not answered: an answer would come to the
// next incarnation.
var lastHeader = []byte("last")

// answer is the hub's consumer: it sends every message back.
func (h *soakHub) answer(ctx context.Context) {
	for {
		c, err := h.Poll(ctx)
		if err != nil {
			return
		}
		if c.Kind == Received && !bytes.Equal(c.Header, lastHeader) {
			_, _ = h.Post(c.Peer, Message{Header: c.Header}) // the peer may be gone
		}
		h.Release(c)
	}
}

// exchange keeps the pair busy that does not end: nothing that happens to the others may
// be noticed there.
func (s *soak) exchange(ctx context.Context, h *soakHub) {
	for n := 0; ctx.Err() == nil; n++ {
		if !h.steady.echo(s.t, n) {
			return
		}
		s.steady.Add(1)
		time.Sleep(time.Millisecond)
	}
}

// echo sends a message to the hub and waits for the answer.
func (e *Endpoint) echo(t *testing.T, n int) bool {
	header := []byte(strconv.Itoa(n))
	region := e.Register(zeros(soakLimits.SlotBytes), nil)
	if _, err := e.Post("hub", Message{Header: header, Body: []Span{{region, 0, n % soakLimits.SlotBytes}}}); err != nil {
		t.Errorf("%s: %v", e.cfg.ID, err)
		return false
	}
	for kinds := map[Kind]int{}; kinds[Sent] == 0 || kinds[Received] == 0; {
		ctx, cancel := context.WithTimeout(context.Background(), 4*atLast)
		c, err := e.Poll(ctx)
		cancel()
		if err != nil || c.Err != nil || c.Kind == Received && !bytes.Equal(header, c.Header) {
			t.Errorf("%s (epoch %d): %+v, %v", e.cfg.ID, e.cfg.Epoch, c, err)
			return false
		}
		kinds[c.Kind]++
		e.Release(c)
	}
	return true
}

// live is one incarnation, from its first connect to its end.
func (w *soakWorker) live(t *testing.T) {
	w.epoch++
	cfg := soakLimits
	cfg.ID, cfg.Epoch, cfg.Connections = w.id, w.epoch, 1+w.rand.IntN(3)
	w.hub.change(&cfg)
	e, err := NewEndpoint(cfg)
	if err != nil {
		t.Error(err)
		return
	}
	defer closeNow(e)
	addr, err := e.Listen(t.Context(), strings.SplitN(w.hub.addr, ":", 2)[0]+":127.0.0.1:0")
	if err != nil {
		t.Error(err)
		return
	}
	if w.rand.IntN(2) == 0 {
		addr = "" // only this end dials
	}
	if err := firstError(func() error { return w.hub.SetPeer(w.id, addr, w.epoch) }, func() error { return e.SetPeer("hub", w.hub.addr, 0) }); err != nil {
		t.Error(err)
		return
	}
	if e.echo(t, int(w.epoch)) {
		w.end(e)
	}
}

// end ends a pair that is up: the peer's process dies, either end leaves, either
// one forgets the other, or none does: then the next incarnation takes its place.
func (w *soakWorker) end(e *Endpoint) {
	switch w.rand.IntN(6) {
	case 0:
		kill(e.pairs["hub"])
	case 1: // in the middle of messages
		region := e.Register(zeros(soakLimits.SlotBytes), nil)
		for range 4 {
			_, _ = e.Post("hub", Message{Header: lastHeader, Body: []Span{{region, 0, soakLimits.SlotBytes}}}) // it may be refused
		}
		kill(e.pairs["hub"])
	case 2:
		w.hub.RemovePeer(w.id)
	case 3:
		e.RemovePeer("hub")
	case 4:
		closeNow(e)
	}
}

// kill breaks a pair's connections off, as the death of this end's process does.
func kill(p *pair) {
	l, ok := p.upLink().(*wireLink)
	if !ok {
		return // the pair is down already
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range l.lanes {
		if n.conn == nil {
			n.netConn.Close() // this lane is not open yet, though messages have come by others
		} else {
			n.conn.shutdown()
		}
	}
}

// use is how many resources a process has.
type use struct{ goroutines, descriptors, mappings, heap, resident int }

func (u use) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d mappings, %d KiB of heap, %d KiB resident",
		u.goroutines, u.descriptors, u.mappings, u.heap>>10, u.resident>>10)
}

// present is the use as of now.
func present(t testing.TB) use {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	statm, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	require.NoError(t, err)
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return use{runtime.NumGoroutine(), openFDs(t), bytes.Count(maps, []byte("\n")), int(m.HeapAlloc), pages * os.Getpagesize()}
}

// measure is the use once everything that is about to end has ended.
func (s *soak) measure() use {
	s.t.Helper()
	last := present(s.t)
	for range 20 { // until it no longer falls
		time.Sleep(soakLimits.PeerTimeout / 50)
		now := present(s.t)
		if now.goroutines >= last.goroutines && now.descriptors >= last.descriptors && now.mappings >= last.mappings {
			break
		}
		last = now
	}
	s.t.Log(last)
	return last
}

// requireNoMore: no more is in use after all connects than was before.
func (s *soak) requireNoMore(before use) {
	s.t.Helper()
	var now use
	fits := func() bool {
		now = present(s.t)
		return now.goroutines <= before.goroutines+2 && now.descriptors <= before.descriptors && // a goroutine is this check's own, one its timer's
			now.mappings <= before.mappings+32 && // the heap's, which come in pieces
			now.heap <= before.heap+8<<20 && now.resident <= before.resident+64<<20
	}
	require.Eventually(s.t, fits, 2*soakLimits.PeerTimeout, 200*time.Millisecond, "before: %v", before)
	s.t.Log(now)
}
