package exchange

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestShapes: lists go in step, or one value with all.
func TestShapes(t *testing.T) {
	o := Options{Senders: []int{1}, Receivers: []int{1, 2}, Sizes: []int{8, 16}, Transports: []string{"tcp"}}
	require.NoError(t, o.fill())
	require.Equal(t, []Shape{{1, 1, 8, 1}, {1, 1, 16, 1}, {1, 2, 8, 1}, {1, 2, 16, 1}}, o.shapes())

	o = Options{Senders: []int{2, 4}, Receivers: []int{3, 5}, Sizes: []int{8}, Transports: []string{"tcp"}}
	require.NoError(t, o.fill())
	require.Equal(t, []Shape{{2, 3, 8, 1}, {4, 5, 8, 1}}, o.shapes())
}

// TestOptionsThatAreRefused name the flag.
func TestOptionsThatAreRefused(t *testing.T) {
	for flag, o := range map[string]Options{
		"--senders: 0":                           {Senders: []int{0}},
		"--receivers: 1000":                      {Receivers: []int{1000}},
		"--size: 12":                             {Sizes: []int{12}},
		"--messages: -1":                         {Messages: []int{-1}},
		"--senders has 2 values":                 {Senders: []int{1, 2}, Receivers: []int{1, 2, 3}},
		"--iterations: -1":                       {Iterations: -1},
		"--repeats: -2":                          {Repeats: -2},
		"--time -1ns":                            {Time: -1},
		"--line-rate -1":                         {LineRate: -1},
		"--line-rate NaN":                        {LineRate: math.NaN()},
		`--transport: "tpc": want shm, tcp, ucx`: {Transports: []string{"tpc"}},
		`--baseline: "mp": want grpc, mpi, raw`:  {Baselines: []string{"mp"}},
		"nothing to measure":                     {Iterations: 1},
	} {
		if o.Iterations == 0 && len(o.Transports)+len(o.Baselines) == 0 {
			o.Transports = []string{"tcp"}
		}
		require.ErrorContains(t, o.fill(), flag)
	}
}

// TestContestants: a baseline may be several rows.
func TestContestants(t *testing.T) {
	o := Options{Transports: []string{"shm", "tcp", "ucx", "shm"}, Baselines: []string{"raw", "mpi", "raw", "grpc", "ucx"}}
	require.Equal(t, []string{"shm", "tcp", "m2n-ucx", "grpc", "grpc-tuned", "mpi-shm", "mpi-tcp", "raw", "raw-crc", "ucx", "ucx-tcp"}, o.contestants())
}
