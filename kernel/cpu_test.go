package kernel

import (
	"context"
	"errors"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestNewCPURefusesWhatTheMachineLacks(t *testing.T) {
	_, err := NewCPU(CPUOptions{Threads: -1})
	require.EqualError(t, err, "cpu device: -1 threads")
	_, err = NewCPU(CPUOptions{ISA: ISA(77)})
	require.ErrorContains(t, err, "cpu device: instruction set ISA(77): this machine has [portable")
	require.Equal(t, "cpu portable, 3 threads", newDevice(t, Portable, 3).Properties().Name)
	require.Equal(t, "cpu portable, 1 thread", newDevice(t, Portable, 1).Properties().Name)
}

func TestParseISAIsTheInverseOfString(t *testing.T) {
	for _, isa := range []ISA{Auto, Portable, AVX2, AVX512} {
		got, err := ParseISA(isa.String())
		require.NoError(t, err)
		require.Equal(t, isa, got)
	}
	_, err := ParseISA("sse")
	require.EqualError(t, err, `instruction set "sse": want one of ["auto" "portable" "avx2" "avx512"]`)
}

// Small buffers come from the heap and large ones from the system: all are
// zero, aligned, and of exactly the size asked for.
func TestAllocIsZeroedAndAligned(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	for _, n := range []int{0, 1, 15, 16, 1000, mappedFrom/4 - 1, mappedFrom / 4, mappedFrom/4 + 1} {
		for range 2 {
			b, err := dev.Alloc(DeviceMemory, I32, n)
			require.NoError(t, err)
			require.Equal(t, n, b.Len())
			require.Len(t, b.Bytes(), 4*n)
			require.Zero(t, uintptr(unsafe.Pointer(unsafe.SliceData(b.Bytes())))%cacheLine)
			for _, v := range i32s(b) {
				if v != 0 {
					require.Failf(t, "not zero", "%d elements", n)
				}
			}
			for i := range b.Bytes() {
				b.Bytes()[i] = 1
			}
			dev.Free(b)
		}
	}
	_, err := dev.Alloc(DeviceMemory, F32, -1)
	require.EqualError(t, err, "allocate -1 elements of f32")
	_, err = dev.Alloc(DeviceMemory, F32, 1<<59)
	require.ErrorContains(t, err, "allocate 576460752303423488 elements of f32: ")
}

func TestLoadCopiesToElements(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	b, err := dev.Alloc(DeviceMemory, F16, 4)
	require.NoError(t, err)
	dev.Load(b, 1, []byte{1, 2, 3, 4})
	require.NoError(t, dev.Record().Wait(context.Background()))
	require.Equal(t, []byte{0, 0, 1, 2, 3, 4, 0, 0}, b.Bytes())
	require.Panics(t, func() { dev.Load(b, 3, make([]byte, 4)) })
}

func TestVectorWidens(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	want := []float32{1, -2, 0.5}
	for _, typ := range weightTypes {
		b, err := dev.Vector(typ, narrow(typ, want))
		require.NoError(t, err)
		require.Equal(t, want, f32s(b))
	}
	_, err := dev.Vector(F32, make([]byte, 6))
	require.EqualError(t, err, "vector of f32 from 6 bytes: want f32, f16 or bf16, a whole number of elements")
}

// Every half is widened by the processor as by the table of IEEE 754 in
// convert.go.
func TestEveryHalfWidensAlike(t *testing.T) {
	all := make([]byte, 2<<16)
	for i := range 1 << 16 {
		all[2*i], all[2*i+1] = byte(i), byte(i>>8)
	}
	for _, typ := range []DType{F16, BF16} {
		want := make([]float32, 1<<16)
		widen(want, typ, all)
		for i, v := range want { // 1·v + 0 is what a chain of one step gives
			want[i] = v + 0
		}
		eachISA(t, func(t *testing.T, isa ISA) {
			dev := newDevice(t, isa, 1)
			w, err := dev.Pack(HostMatrix{DType: typ, Out: 1 << 16, In: 1, Data: all})
			require.NoError(t, err)
			dst := upload(t, dev, 1, 1<<16, make([]float32, 1<<16))
			dev.Linear(dst, upload(t, dev, 1, 1, []float32{1}), w, nil)
			requireSameBits(t, want, download(dst), typ)
		})
	}
}

func TestWidenF16KnowsItsLandmarks(t *testing.T) {
	for half, want := range map[uint16]float32{
		0x3c00: 1, 0xc000: -2, 0x7bff: 65504, 0x0400: 1.0 / (1 << 14), 0x0001: 1.0 / (1 << 24), 0x83ff: -1023.0 / (1 << 24),
	} {
		require.Equal(t, want, widenF16(half), "%#04x", half)
	}
}

func TestViewsStayInsideTheirBuffer(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	b, err := dev.Alloc(DeviceMemory, F32, 12)
	require.NoError(t, err)
	require.Equal(t, 3, len(view(Mat{Buf: b, Off: 1, Rows: 3, Cols: 3, Stride: 4}).row(2)))
	for _, m := range []Mat{
		{Buf: b, Rows: 3, Cols: 5, Stride: 5}, {Buf: b, Off: 1, Rows: 3, Cols: 4, Stride: 4},
		{Buf: b, Off: -1, Rows: 1, Cols: 4, Stride: 4}, {Buf: b, Rows: 2, Cols: 4, Stride: 3},
	} {
		require.Panics(t, func() { view(m) }, "%+v", m)
	}
	ints, err := dev.Alloc(DeviceMemory, I32, 4)
	require.NoError(t, err)
	require.PanicsWithValue(t, "kernel: a buffer of i32, want f32", func() { view(MatOf(ints, 1, 4)) })
}

func TestReadCopiesElements(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	b, err := dev.Alloc(DeviceMemory, F16, 4)
	require.NoError(t, err)
	dev.Load(b, 0, []byte{0, 1, 2, 3, 4, 5, 6, 7})
	got := make([]byte, 4)
	dev.Read(got, b, 1)
	require.NoError(t, dev.Record().Wait(context.Background()))
	require.Equal(t, []byte{2, 3, 4, 5}, got)
	require.PanicsWithValue(t, "kernel: read 4 bytes at byte 6 of a buffer of 8", func() { dev.Read(got, b, 3) })
}

func TestAllocRefusesKindsAndTypesByName(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	_, err := dev.Alloc(MemoryKind(7), F32, 1)
	require.EqualError(t, err, "allocate 1 elements of f32 in MemoryKind(7): there is no such memory or type")
	_, err = dev.Alloc(HostVisible, DType(99), 1)
	require.EqualError(t, err, "allocate 1 elements of DType(99) in host-visible memory: there is no such memory or type")
	_, err = dev.Alloc(DeviceMemory, Q8, 33)
	require.EqualError(t, err, "allocate 33 elements of q8")
}

// hostOnly is host-visible memory of some other device.
type hostOnly struct {
	mem []byte
}

func (b hostOnly) DType() DType  { return F32 }
func (b hostOnly) Len() int      { return len(b.mem) / 4 }
func (b hostOnly) Bytes() []byte { return b.mem }

// TestOperandsMayBeAnotherDevicesHostMemory: rows of another device pass without a copy
// where the host addresses them, and are refused by name where it does not.
func TestOperandsMayBeAnotherDevicesHostMemory(t *testing.T) {
	dev := newDevice(t, Auto, 1)
	foreign := hostOnly{alignedBytes(16)}
	copy(castSlice[float32](foreign.mem), []float32{1, 2, 3, 4})
	dst := upload(t, dev, 2, 2, make([]float32, 4))
	dev.CopyRows(dst, nil, MatOf(foreign, 2, 2), []int32{1, 0})
	require.Equal(t, []float32{3, 4, 1, 2}, download(dst))
	dev.DecodeRows(dst, nil, CodedMatOf(foreign, RowF32, 2, 2), nil)
	require.Equal(t, []float32{1, 2, 3, 4}, download(dst))
	require.PanicsWithValue(t, "kernel: a kernel.unaddressable is memory of another device, which the CPU cannot address", func() {
		dev.Add(dst, dst, MatOf(unaddressable{foreign}, 2, 2))
	})
}

type unaddressable struct{ hostOnly }

func (unaddressable) Bytes() []byte { return nil }

// failed is an event of a device that has failed.
type failed struct{ err error }

func (f failed) Wait(context.Context) error { return f.err }

func TestWaitForAnotherDevice(t *testing.T) {
	dev := newDevice(t, Portable, 1)
	dev.WaitFor(failed{nil})
	require.NoError(t, dev.Record().Wait(t.Context()))
	broken := errors.New("out of order")
	dev.WaitFor(failed{broken})
	dev.WaitFor(failed{errors.New("a later one")})
	err := dev.Record().Wait(t.Context())
	require.ErrorIs(t, err, broken)
	require.EqualError(t, err, "cpu portable, 1 thread: another device's work: out of order")
}

func TestPropertiesNameWhatIsMissing(t *testing.T) {
	p := newDevice(t, Portable, 1).Properties()
	require.NoError(t, p.Require(AllCapabilities))
	p.Capabilities &^= Sinks | RouterGroups
	require.NoError(t, p.Require(Windows))
	require.EqualError(t, p.Require(Windows|Sinks|RouterGroups),
		`the device "cpu portable, 1 thread" cannot do what the model needs: attention sinks, a router with groups`)
	require.Equal(t, "nothing", Capabilities(0).String())
	for i := range capabilityNames {
		require.NotContains(t, Capabilities(1<<i).String(), ",")
	}
	require.EqualValues(t, 1<<len(capabilityNames)-1, AllCapabilities, "each capability has a name")
}
