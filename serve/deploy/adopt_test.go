package deploy_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// TestDevicesThatAdoptNoMemoryPairByTCP: of nodes on one host, those whose devices cannot
// address the host's memory receive by TCP, the others in shared memory, and all give the
// same bits. Two nodes share memory only where both devices can.
func TestDevicesThatAdoptNoMemoryPairByTCP(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("shared memory needs Linux")
	}
	dir := models(t)[0]
	m, err := deploy.OpenModel(dir)
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	l := drawLayout(1, len(requests(m.Spec.Vocabulary)))
	l.attention, l.experts, l.replicas, l.transport, l.lose = 2, 2, 0, "shm+tcp", nil
	want := plain(t, m, l.numerics())
	for _, without := range []string{"expert-0", "attention-1"} {
		t.Run(without, func(t *testing.T) {
			o := l.options(m)
			o.Device = adoptsNoMemory(without)
			got, stats := serveWith(t, m, o, l, requests(m.Spec.Vocabulary))
			l.compare(t, dir, want, got)
			requireTransports(t, stats, func(a, b string) string {
				if a == without || b == without {
					return "tcp"
				}
				return "shm"
			})
		})
	}
}

// adoptsNoMemory makes devices of which one node's adopts no memory of the host.
func adoptsNoMemory(without string) func(string, *kernel.Pool) (kernel.ExpertDevice, error) {
	return func(node string, pool *kernel.Pool) (kernel.ExpertDevice, error) {
		dev, err := kernel.NewCPU(kernel.CPUOptions{ISA: kernel.Portable, Pool: pool, Threads: 1})
		if err != nil || node != without {
			return dev, err
		}
		return kerneltest.Without(dev, kernel.AdoptsMemory), nil
	}
}

// TestSharedMemoryNeedsADeviceThatAdoptsIt: a node that is to be reached by shared memory
// alone is refused at its start, not when its peers cannot connect.
func TestSharedMemoryNeedsADeviceThatAdoptsIt(t *testing.T) {
	m, err := deploy.OpenModel("")
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	o := deploy.Options{MaxModelLen: 64, KVMemory: 1 << 20, Transport: "shm", Device: adoptsNoMemory("expert-0")}
	_, err = deploy.StartLocal(t.Context(), m, o, nil)
	require.EqualError(t, err, "node expert-0: transport shm: the device \"limited cpu portable, 1 thread\" "+
		"cannot adopt shared memory; use shm+tcp or tcp")
}
