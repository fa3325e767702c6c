package kerneltest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
)

func TestLedger(t *testing.T) {
	cpu := newCPU(t)
	defer cpu.Close()
	l := kerneltest.NewLedger(cpu)
	l.FailAt(3)
	a, err := l.Alloc(kernel.DeviceMemory, kernel.F32, 4)
	require.NoError(t, err)
	b, err := l.Vector(kernel.F32, make([]byte, 8))
	require.NoError(t, err)
	require.False(t, l.Failed())
	_, err = l.Pack(kernel.HostMatrix{Out: 1, In: 1, Data: make([]byte, 4)})
	require.ErrorIs(t, err, kerneltest.ErrOutOfMemory)
	require.True(t, l.Failed())
	c, err := l.Alloc(kernel.DeviceMemory, kernel.I32, 1)
	require.NoError(t, err, "one alone fails")
	require.Equal(t, 3, l.Live())
	for _, buffer := range []kernel.Buffer{a, b, c} {
		l.Free(buffer)
	}
	require.Zero(t, l.Live())
	require.Panics(t, func() { l.Free(a) })
}
