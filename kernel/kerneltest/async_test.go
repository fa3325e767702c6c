package kerneltest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newAsync is an asynchronous device over a CPU's.
func newAsync(t *testing.T) kernel.Device {
	dev := kerneltest.NewAsync(newCPU(t))
	t.Cleanup(func() { require.NoError(t, dev.Close()) })
	return dev
}

func newCPU(t *testing.T) kernel.Device {
	dev, err := kernel.NewCPU(kernel.CPUOptions{Threads: 2})
	require.NoError(t, err)
	return dev
}

// vector is a device's copy of values, as one row.
func vector(t *testing.T, dev kernel.Device, values ...float32) kernel.Mat {
	var data []byte
	for _, v := range values {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
	}
	b, err := dev.Vector(kernel.F32, data)
	require.NoError(t, err)
	return kernel.MatOf(b, 1, len(values))
}

// first is the first element that the host sees.
func first(m kernel.Mat) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(m.Buf.Bytes()))
}

func wait(t *testing.T, e kernel.Event) {
	t.Helper()
	require.NoError(t, e.Wait(context.Background()))
}

func TestReadingTooEarlySeesPoison(t *testing.T) {
	dev := newAsync(t)
	a, b, sum := vector(t, dev, 1, 10), vector(t, dev, 2, 20), vector(t, dev, 0, 0)
	require.Equal(t, float32(1), first(a), "an operand that nothing writes")
	dev.Add(sum, a, b)
	done := dev.Record()
	require.True(t, math.IsNaN(float64(first(sum))), "enqueued, not waited for")
	time.Sleep(10 * time.Millisecond)
	require.True(t, math.IsNaN(float64(first(sum))), "done, not waited for")
	wait(t, done)
	require.Equal(t, float32(3), first(sum))
}

// An event makes readable what precedes it, and leaves the rest poisoned.
func TestAnEventRevealsOnlyWhatPrecedesIt(t *testing.T) {
	dev := newAsync(t)
	a, x, y := vector(t, dev, 1), vector(t, dev, 0), vector(t, dev, 0)
	dev.Add(x, a, a)
	early := dev.Record()
	dev.Add(y, x, x)
	dev.Add(a, a, a)
	late := dev.Record()
	wait(t, early)
	require.Equal(t, float32(2), first(x))
	require.True(t, math.IsNaN(float64(first(y))))
	require.True(t, math.IsNaN(float64(first(a))), "written again after the event")
	wait(t, late)
	require.Equal(t, float32(4), first(y))
	require.Equal(t, float32(2), first(a))
	wait(t, early)
	require.Equal(t, float32(2), first(a), "an old event takes nothing back")
}

// The slices of an operation are read before it returns.
func TestSlicesMayBeReused(t *testing.T) {
	dev := newAsync(t)
	src := kernel.MatOf(vector(t, dev, 1, 2, 3).Buf, 3, 1)
	dst := kernel.MatOf(vector(t, dev, 0).Buf, 1, 1)
	rows := []int32{2}
	dev.CopyRows(dst, nil, src, rows)
	rows[0] = 0
	wait(t, dev.Record())
	require.Equal(t, float32(3), first(dst))
}

// A broken invariant panics where the host waits, with the operation's name.
func TestAPanicReachesTheHost(t *testing.T) {
	dev := newAsync(t)
	a := vector(t, dev, 1, 2)
	dev.Add(a, a, a.ColRange(0, 1))
	done := dev.Record()
	require.PanicsWithValue(t, "kerneltest: add: kernel: add: columns of b 1, want 2", func() { wait(t, done) })
}

// stuck is a device whose additions take as long as a test likes.
type stuck struct {
	kernel.Device
	release chan struct{}
}

func (s stuck) Add(dst, a, b kernel.Mat) {
	<-s.release
	s.Device.Add(dst, a, b)
}

func TestWaitIsBounded(t *testing.T) {
	s := stuck{newCPU(t), make(chan struct{})}
	dev := kerneltest.NewAsync(s)
	a := vector(t, dev, 1)
	dev.Add(a, a, a)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, dev.Record().Wait(ctx), context.Canceled)
	close(s.release)
	wait(t, dev.Record())
	require.Equal(t, float32(2), first(a))
	require.NoError(t, dev.Close())
}

// Each instruction set, enqueued, gives what the portable kernels give at once, whether
// the host addresses device memory or not.
func TestEveryPrimitiveConforms(t *testing.T) {
	reference := newReference(t)
	for _, isa := range kernel.Available() {
		for kind, enqueue := range map[string]func(kernel.Device) kernel.Device{
			"asynchronous": kerneltest.NewAsync, "discrete": kerneltest.NewDiscrete,
		} {
			t.Run(isa.String()+" "+kind, func(t *testing.T) {
				dev, err := kernel.NewCPU(kernel.CPUOptions{ISA: isa, Threads: 2})
				require.NoError(t, err)
				async := enqueue(dev)
				kerneltest.Conform(t, async, reference)
				require.NoError(t, async.Close())
			})
		}
	}
}

// newReference is the CPU with the portable kernels.
func newReference(t *testing.T) kernel.Device {
	dev, err := kernel.NewCPU(kernel.CPUOptions{ISA: kernel.Portable, Threads: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dev.Close()) })
	return dev
}

// TestADeviceOfExpertsConforms: a device that has no other operations than those of an
// expert node, and whose memory the host cannot address, is held to the bits of all of
// them; and so is one that adopts no memory besides.
func TestADeviceOfExpertsConforms(t *testing.T) {
	reference := newReference(t)
	for _, lacks := range []kernel.Capabilities{0, kernel.AdoptsMemory} {
		t.Run(lacks.String(), func(t *testing.T) {
			dev := kerneltest.ExpertsOnly(kerneltest.Without(newDiscrete(t), lacks))
			_, whole := dev.(kernel.Device)
			require.False(t, whole)
			kerneltest.ConformExpert(t, dev, reference)
		})
	}
}

// TestADeviceThatLacksCapabilitiesConforms: what a device says that it lacks is not
// demanded of it, and is refused.
func TestADeviceThatLacksCapabilitiesConforms(t *testing.T) {
	reference := newReference(t)
	for c := kernel.Capabilities(1); c < kernel.AllCapabilities; c <<= 1 {
		t.Run(c.String(), func(t *testing.T) { kerneltest.Conform(t, kerneltest.Without(newDiscrete(t), c), reference) })
	}
	t.Run("all", func(t *testing.T) {
		kerneltest.Conform(t, kerneltest.Without(newDiscrete(t), kernel.AllCapabilities), reference)
	})
}

// newDiscrete is a device whose memory the host cannot address.
func newDiscrete(t *testing.T) kernel.Device {
	dev := kerneltest.NewDiscrete(newCPU(t))
	t.Cleanup(func() { require.NoError(t, dev.Close()) })
	return dev
}

func alloc(t *testing.T, dev kernel.Device, kind kernel.MemoryKind, n int) kernel.Buffer {
	t.Helper()
	b, err := dev.Alloc(kind, kernel.F32, n)
	require.NoError(t, err)
	return b
}

// What a device that the host cannot look into has computed comes by Read, once the host
// has waited.
func TestTheHostReadsDiscreteMemoryByRead(t *testing.T) {
	dev := newDiscrete(t)
	a := vector(t, dev, 1, 2)
	require.Nil(t, a.Buf.Bytes())
	require.Contains(t, dev.Properties().Name, "discrete asynchronous cpu")
	dev.Add(a, a, a)
	host := alloc(t, dev, kernel.HostVisible, 1).Bytes()
	dev.Read(host, a.Buf, 1)
	require.Equal(t, []byte{kerneltest.Poison, kerneltest.Poison, kerneltest.Poison, kerneltest.Poison}, host, "enqueued, not waited for")
	wait(t, dev.Record())
	require.Equal(t, float32(4), math.Float32frombits(binary.LittleEndian.Uint32(host)))
}

// Host-visible memory is written by the host and read by operations, and the other way
// round.
func TestHostVisibleMemoryIsSeenByBoth(t *testing.T) {
	dev := newDiscrete(t)
	in, out := kernel.MatOf(alloc(t, dev, kernel.HostVisible, 2), 1, 2), kernel.MatOf(alloc(t, dev, kernel.HostVisible, 2), 1, 2)
	for _, x := range []float32{3, 5} {
		binary.LittleEndian.PutUint32(in.Buf.Bytes()[4:], math.Float32bits(x))
		dev.Add(out, in, in)
		dev.Add(out, out, in)
		wait(t, dev.Record())
		require.Equal(t, 3*x, math.Float32frombits(binary.LittleEndian.Uint32(out.Buf.Bytes()[4:])))
	}
}

// A host that gives memory to somebody else before the operations that read it have run
// is told.
func TestWritingTooEarlyFailsTheDevice(t *testing.T) {
	s := stuck{newCPU(t), make(chan struct{})}
	dev := kerneltest.NewDiscrete(s)
	in, x := kernel.MatOf(alloc(t, dev, kernel.HostVisible, 2), 1, 2), vector(t, dev, 1, 1)
	dev.Add(x, x, x) // stands before what follows
	dev.CopyRows(x, nil, in, nil)
	in.Buf.Bytes()[0] = 1
	close(s.release)
	require.PanicsWithValue(t, "kerneltest: copy rows: the host has written to memory that the operation had yet to read",
		func() { _ = dev.Record().Wait(context.Background()) })
	require.NoError(t, dev.Close())
}

// Rows pass from one device to another in host-visible memory; of what only its device
// reads, they do not.
func TestAnotherDevicesHostVisibleMemoryIsAnOperand(t *testing.T) {
	a, b, cpu := newDiscrete(t), newAsync(t), newCPU(t)
	defer cpu.Close()
	from := kernel.MatOf(alloc(t, a, kernel.HostVisible, 2), 1, 2)
	a.Add(from, vector(t, a, 1, 2), vector(t, a, 1, 2))
	sent := a.Record()
	onB, onCPU := vector(t, b, 0, 0), vector(t, cpu, 0, 0)
	b.WaitFor(sent)
	b.CopyRows(onB, nil, from, nil)
	wait(t, b.Record())
	require.Equal(t, float32(2), first(onB))
	cpu.WaitFor(sent)
	cpu.CopyRows(onCPU, nil, from, nil)
	require.Equal(t, float32(2), first(onCPU))
	require.PanicsWithValue(t, "kernel: a *kerneltest.buffer is memory of another device, which the CPU cannot address",
		func() { cpu.CopyRows(onCPU, nil, vector(t, a, 1, 2), nil) })
}

// broken is an event of a device that has failed.
type broken struct{}

func (broken) Wait(context.Context) error { return errors.New("broken") }

func TestWaitForAFailedDeviceFails(t *testing.T) {
	dev := newDiscrete(t)
	dev.WaitFor(broken{})
	require.ErrorContains(t, dev.Record().Wait(t.Context()), "another device's work: broken")
}

// A mirror is read in place where the host can, and fetched where it cannot.
func TestMirror(t *testing.T) {
	cpu := newCPU(t)
	defer cpu.Close()
	for name, dev := range map[string]kernel.Device{"cpu": cpu, "asynchronous": newAsync(t), "discrete": newDiscrete(t)} {
		t.Run(name, func(t *testing.T) {
			ledger := kerneltest.NewLedger(dev)
			m, err := kernel.NewMirror(ledger, kernel.F32, 3)
			require.NoError(t, err)
			x := kernel.MatOf(m.Buffer, 1, 2)
			dev.Add(x, vector(t, dev, 1, 2), vector(t, dev, 3, 4))
			m.Fetch(dev, 2)
			wait(t, dev.Record())
			require.Equal(t, []float32{4, 6}, kernel.Float32s(m.Host())[:2])
			require.Equal(t, name == "discrete", m.Host() != m.Buffer)
			m.Free(ledger)
			require.Zero(t, ledger.Live())
			if name == "discrete" {
				ledger.FailAt(2)
				_, err = kernel.NewMirror(ledger, kernel.F32, 3)
				require.ErrorIs(t, err, kerneltest.ErrOutOfMemory)
				require.Zero(t, ledger.Live())
			}
			kernel.Mirror{}.Free(ledger)
		})
	}
}
