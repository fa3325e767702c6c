package kerneltest_test

import (
	"context"
	"encoding/binary"
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

// Each instruction set, enqueued, gives what the portable kernels give at once.
func TestEveryPrimitiveConforms(t *testing.T) {
	reference, err := kernel.NewCPU(kernel.CPUOptions{ISA: kernel.Portable, Threads: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, reference.Close()) })
	for _, isa := range kernel.Available() {
		t.Run(isa.String(), func(t *testing.T) {
			dev, err := kernel.NewCPU(kernel.CPUOptions{ISA: isa, Threads: 2})
			require.NoError(t, err)
			async := kerneltest.NewAsync(dev)
			kerneltest.Conform(t, async, reference)
			require.NoError(t, async.Close())
		})
	}
}
