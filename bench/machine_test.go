package bench

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
)

func TestCPUInfo(t *testing.T) {
	require.Equal(t, "AMD EPYC 9R14", cpuinfo("processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9R14\nflags\t\t: fpu\n"))
	require.Empty(t, cpuinfo("processor\t: 0\nCPU implementer\t: 0x41\n"))
	require.Contains(t, ThisMachine(kernel.Portable).String(), "portable")
	require.NotEmpty(t, ThisMachine(kernel.Portable).CPU)
}
