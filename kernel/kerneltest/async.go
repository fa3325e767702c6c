// Package kerneltest owns what tests of devices and of their users share: fake devices
// that are asynchronous, slow or out of memory, and a test that a device keeps the
// numerics' contract. It may not know models or networks.
package kerneltest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/kernel"
)

// Poison is what fills every byte that the host must not read yet: NaN as F32,
// -1 as I32.
const Poison = 0xff

// async is a device whose operations run later, on a goroutine of its own.
//
// Its memory is the inner device's, which that goroutine alone touches. The host sees a
// copy of the memory that it may address. The elements that an operation writes turn to
// poison in the host's copy when the operation is enqueued, and to their values when the
// host has waited for an event recorded after the operation. So a host that reads too
// early reads poison each time, and not only where it loses a race. The bytes that the
// host has written to host-visible memory are copied to the inner device for the
// operations that read them; a host that writes there again before these operations
// have run fails the device.
type async struct {
	dev      kernel.Device
	discrete bool // the host addresses host-visible memory alone

	inner   sync.Mutex // held while the inner device is used
	mu      sync.Mutex // guards what follows
	more    *sync.Cond // the queue has grown, or ends
	queue   []*op
	unseen  []*op // whose results the host has not waited for, in order
	failure any   // the error or panic of the first operation that failed
	closed  bool
	ended   chan struct{}
}

// op is an enqueued operation.
type op struct {
	name   string
	run    func(dev kernel.Device)
	reads  []snapshot
	writes []target
	values [][]byte      // of each target, once done
	done   chan struct{} // closed once it has run
}

// region is a range of bytes of a buffer.
type region struct {
	buf    *buffer
	lo, hi int
}

// snapshot is the host's bytes of a region at the time when an operation that reads the
// region was enqueued.
type snapshot struct {
	region
	bytes []byte
}

// target is memory of the host that shows an operation's results.
type target struct {
	region               // the buffer's, or none where the memory is Read's destination
	host   []byte        // what the host sees
	value  func() []byte // what the operation has written, once it has run
}

// buffer is memory of the inner device with the host's copy of it.
type buffer struct {
	kernel.Buffer
	owner   *async
	host    []byte        // nil where the host cannot address the memory
	hostMem kernel.Buffer // the buffer that host lies in; nil where Adopt was given host
	visible bool          // the host may write to it
}

// Bytes is the host's copy.
func (b *buffer) Bytes() []byte { return b.host }

// NewAsync returns a device that enqueues dev's operations and runs them in
// order, later. The host addresses all of its memory. dev is not used otherwise from
// then on; Close closes it.
func NewAsync(dev kernel.Device) kernel.Device { return newAsync(dev, false) }

// NewDiscrete is NewAsync with device memory that the host cannot address, as a GPU's:
// Bytes is nil for it.
func NewDiscrete(dev kernel.Device) kernel.Device { return newAsync(dev, true) }

func newAsync(dev kernel.Device, discrete bool) *async {
	a := &async{dev: dev, discrete: discrete, ended: make(chan struct{})}
	a.more = sync.NewCond(&a.mu)
	go a.execute()
	return a
}

// Properties are the inner device's under another name.
func (a *async) Properties() kernel.Properties {
	p := a.dev.Properties()
	p.Name = "asynchronous " + p.Name
	if a.discrete {
		p.Name = "discrete " + p.Name
	}
	return p
}

// Close runs the enqueued operations, ends the goroutine and closes the inner device.
func (a *async) Close() error {
	a.mu.Lock()
	a.closed = true
	a.more.Signal()
	a.mu.Unlock()
	<-a.ended
	return a.dev.Close()
}

// enqueue adds an operation, takes a snapshot of the host's bytes in the regions that it
// reads, and poisons its targets.
func (a *async) enqueue(name string, reads []region, writes []target, run func(dev kernel.Device)) *op {
	o := &op{name: name, run: run, writes: writes, done: make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		panic("kerneltest: " + name + " on a closed device")
	}
	for _, r := range reads {
		for _, part := range a.ofTheHost(r) {
			o.reads = append(o.reads, snapshot{part, bytes.Clone(part.hostBytes())})
		}
	}
	o.poison()
	a.queue = append(a.queue, o)
	a.unseen = append(a.unseen, o)
	a.more.Signal()
	return o
}

func (r region) hostBytes() []byte { return r.buf.host[r.lo:r.hi] }

// ofTheHost is the parts of a region that hold the host's own bytes: it leaves out those
// that an operation writes whose results the host has not waited for.
func (a *async) ofTheHost(r region) []region {
	parts := []region{r}
	for _, o := range a.unseen {
		for _, w := range o.writes {
			if w.buf == r.buf {
				parts = without(parts, w.lo, w.hi)
			}
		}
	}
	return parts
}

// without cuts a range out of regions.
func without(parts []region, lo, hi int) (rest []region) {
	for _, p := range parts {
		before, after := p, p
		before.hi, after.lo = min(p.hi, lo), max(p.lo, hi)
		for _, cut := range []region{before, after} {
			if cut.lo < cut.hi {
				rest = append(rest, cut)
			}
		}
	}
	return rest
}

func (o *op) poison() {
	for _, w := range o.writes {
		for i := range w.host {
			w.host[i] = Poison
		}
	}
}

// execute runs operations until the device is closed and none is left.
func (a *async) execute() {
	defer close(a.ended)
	for o := a.next(); o != nil; o = a.next() {
		dawdle()
		a.perform(o)
		close(o.done)
	}
}

// next waits for an operation; nil means the end.
func (a *async) next() *op {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.queue) == 0 {
		if a.closed {
			return nil
		}
		a.more.Wait()
	}
	o := a.queue[0]
	a.queue = a.queue[1:]
	return o
}

// dawdle lets the host run ahead, now and then far.
func dawdle() {
	if rand.IntN(64) == 0 {
		time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
		return
	}
	for range rand.IntN(4) {
		runtime.Gosched()
	}
}

// perform runs an operation on the inner device and keeps its results for the host. A
// panic is kept too, and raised where the host waits.
func (a *async) perform(o *op) {
	defer func() {
		if v := recover(); v != nil {
			a.fail(fmt.Sprintf("kerneltest: %s: %v", o.name, v))
		}
	}()
	a.inner.Lock()
	defer a.inner.Unlock()
	a.bring(o)
	o.run(a.dev)
	if err := a.dev.Record().Wait(context.Background()); err != nil {
		a.fail(fmt.Errorf("%s: %w", o.name, err))
	}
	for _, w := range o.writes {
		o.values = append(o.values, bytes.Clone(w.value()))
	}
}

// bring copies an operation's snapshots to the inner device, and panics where the host has
// changed the bytes since.
func (a *async) bring(o *op) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range o.reads {
		copy(s.buf.Buffer.Bytes()[s.lo:s.hi], s.bytes)
		for _, still := range a.ofTheHost(s.region) {
			if !bytes.Equal(still.hostBytes(), s.bytes[still.lo-s.lo:still.hi-s.lo]) {
				panic("the host has written to memory that the operation had yet to read")
			}
		}
	}
}

func (a *async) fail(v any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failure == nil {
		a.failure = v
	}
}

// Record returns an event for all that has been enqueued so far.
func (a *async) Record() kernel.Event {
	return event{a, a.enqueue("record", nil, nil, func(kernel.Device) {})}
}

// eventTimeout bounds the wait for another device.
const eventTimeout = time.Minute

// WaitFor waits on the device's goroutine.
func (a *async) WaitFor(e kernel.Event) {
	a.enqueue("wait for another device", nil, nil, func(kernel.Device) {
		ctx, cancel := context.WithTimeout(context.Background(), eventTimeout)
		defer cancel()
		if err := e.Wait(ctx); err != nil {
			a.fail(fmt.Errorf("%s: another device's work: %w", a.Properties().Name, err))
		}
	})
}

type event struct {
	a *async
	o *op
}

// Wait waits until everything before the event has run, and shows the host its
// results.
func (e event) Wait(ctx context.Context) error {
	select {
	case <-e.o.done:
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", e.a.Properties().Name, ctx.Err())
	}
	return e.a.reveal(e.o)
}

// reveal copies the results of the operations up to last to the host, and
// returns or raises what failed among them.
func (a *async) reveal(last *op) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failure != nil {
		if err, ok := a.failure.(error); ok {
			return err
		}
		panic(a.failure)
	}
	seen := 0
	for i, o := range a.unseen {
		if o == last {
			seen = i + 1
		}
	}
	for _, o := range a.unseen[:seen] {
		for i, w := range o.writes {
			copy(w.host, o.values[i])
		}
	}
	a.unseen = a.unseen[seen:]
	for _, o := range a.unseen {
		o.poison() // of these the host must still wait
	}
	return nil
}
