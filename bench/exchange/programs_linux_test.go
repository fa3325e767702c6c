package exchange

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMPIVersion reads what mpirun says.
func TestMPIVersion(t *testing.T) {
	major, err := mpiMajor("mpirun (Open MPI) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/\n")
	require.NoError(t, err)
	require.Equal(t, 4, major)
	_, err = mpiMajor("HYDRA build details: Version: 4.0.2")
	require.ErrorContains(t, err, "HYDRA")
}

// TestMPIArguments: ranks that are more than cores yield, and layers have the
// names of the version.
func TestMPIArguments(t *testing.T) {
	m := &mpi{program: "p", dir: "d", major: 4}
	args := m.args("shm", Shape{500, 500, 8, 1}, "page")
	require.Subset(t, args, []string{"self,vader", "1000", "none"})
	require.Equal(t, "1", after(t, args, "mpi_yield_when_idle"))
	require.Equal(t, []string{"p", "page"}, args[len(args)-2:])
	m.major = 5
	require.Equal(t, "self,sm", after(t, m.args("shm", Shape{1, 1, 8, 1}, "page"), "btl"))
	require.Equal(t, "self,tcp", after(t, m.args("tcp", Shape{1, 1, 8, 1}, "page"), "btl"))
}

// after is the argument behind a name.
func after(t *testing.T, args []string, name string) string {
	t.Helper()
	for i, a := range args[:len(args)-1] {
		if a == name {
			return args[i+1]
		}
	}
	t.Fatalf("no %s in %q", name, args)
	return ""
}

// TestPerftestLatency reads what ucx_perftest -f -v prints.
func TestPerftestLatency(t *testing.T) {
	us, err := perftestLatency("iterations,99.0_percentile_lat,avg_lat\n  10,3996.208,4386.544,4386.544,0.89,0.89,228,228\n1000,1.685,0.880,0.880,4436.50\n")
	require.NoError(t, err)
	require.InDelta(t, 1.685, us, 1e-9)
	_, err = perftestLatency("connect() failed")
	require.ErrorContains(t, err, "connect() failed")
}

// TestOnCore: the two ends have a core each, where there are two.
func TestOnCore(t *testing.T) {
	first := onCore(0)
	require.Len(t, first, 2)
	if runtime.NumCPU() > 1 {
		require.NotEqual(t, first, onCore(1))
	}
	require.Nil(t, onCore(10000), "there are not so many")
}
