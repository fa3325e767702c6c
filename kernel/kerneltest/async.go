// Package kerneltest owns what tests of devices, and of those who use devices,
// share: a fake asynchronous device, and a test that a device keeps the
// numerics' contract. It may not know models or networks.
package kerneltest

import (
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
// Device memory is the inner device's, and only the goroutine touches it. The
// host sees a copy: the elements that an operation writes turn to poison when
// it is enqueued, and to their values when somebody has waited for an event
// recorded after it. So a host that reads too early reads poison each time, and
// not only where it loses a race.
type async struct {
	dev kernel.Device

	inner   sync.Mutex // held while the inner device is used
	mu      sync.Mutex // guards what follows
	more    *sync.Cond // the queue has grown, or ends
	queue   []*op
	unseen  []*op // whose results the host has not waited for, in order
	failure any   // what the first operation that panicked or failed said
	closed  bool
	ended   chan struct{}
}

// op is an enqueued operation.
type op struct {
	name   string
	run    func(dev kernel.Device)
	writes []region
	values [][]byte      // of each region, once done
	done   chan struct{} // closed once it has run
}

// region is a range of bytes of a buffer.
type region struct {
	buf    *buffer
	lo, hi int
}

// buffer is memory of the inner device with the host's copy of it.
type buffer struct {
	kernel.Buffer
	host []byte
}

// Bytes is the host's copy.
func (b *buffer) Bytes() []byte { return b.host }

// NewAsync returns a device that enqueues dev's operations and runs them in
// order, later. dev is not used otherwise from then on; Close closes it.
func NewAsync(dev kernel.Device) kernel.Device {
	a := &async{dev: dev, ended: make(chan struct{})}
	a.more = sync.NewCond(&a.mu)
	go a.execute()
	return a
}

// Name tells that the device is not the plain one.
func (a *async) Name() string { return "asynchronous " + a.dev.Name() }

// Close runs what is enqueued, ends the goroutine and closes the inner device.
func (a *async) Close() error {
	a.mu.Lock()
	a.closed = true
	a.more.Signal()
	a.mu.Unlock()
	<-a.ended
	return a.dev.Close()
}

// enqueue adds an operation and poisons what it will write.
func (a *async) enqueue(name string, writes []region, run func(dev kernel.Device)) *op {
	o := &op{name: name, run: run, writes: writes, done: make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		panic("kerneltest: " + name + " on a closed device")
	}
	o.poison()
	a.queue = append(a.queue, o)
	a.unseen = append(a.unseen, o)
	a.more.Signal()
	return o
}

func (o *op) poison() {
	for _, r := range o.writes {
		host := r.buf.host[r.lo:r.hi]
		for i := range host {
			host[i] = Poison
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

// perform runs an operation on the inner device and keeps what it wrote for the
// host. A panic is kept too, and raised where the host waits.
func (a *async) perform(o *op) {
	defer func() {
		if v := recover(); v != nil {
			a.fail(fmt.Sprintf("kerneltest: %s: %v", o.name, v))
		}
	}()
	a.inner.Lock()
	defer a.inner.Unlock()
	o.run(a.dev)
	if err := a.dev.Record().Wait(context.Background()); err != nil {
		a.fail(fmt.Errorf("%s: %w", o.name, err))
	}
	for _, r := range o.writes {
		o.values = append(o.values, append([]byte(nil), r.buf.Buffer.Bytes()[r.lo:r.hi]...))
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
	return event{a, a.enqueue("record", nil, func(kernel.Device) {})}
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
		return fmt.Errorf("wait for %s: %w", e.a.Name(), ctx.Err())
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
		for i, r := range o.writes {
			copy(r.buf.host[r.lo:r.hi], o.values[i])
		}
	}
	a.unseen = a.unseen[seen:]
	for _, o := range a.unseen {
		o.poison() // of these the host must still wait
	}
	return nil
}
