package deploy_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// ledgers are the devices of a deployment. One of them runs out of memory.
type ledgers struct {
	mu  sync.Mutex
	all []*kerneltest.Ledger
	// failAt says at which allocation a device fails.
	failAt, device int
}

func (l *ledgers) make(_ string, pool *kernel.Pool) (kernel.ExpertDevice, error) {
	dev, err := kernel.NewCPU(kernel.CPUOptions{Pool: pool, Threads: 1})
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	ledger := kerneltest.NewLedger(dev)
	if len(l.all) == l.device {
		ledger.FailAt(l.failAt)
	}
	l.all = append(l.all, ledger)
	return ledger, nil
}

// TestADeviceRunsOutOfMemory makes one of a deployment's devices fail, at each of its
// allocations in turn: while the deployment starts, while its nodes connect, and while
// they compute. Each time the deployment returns an error or recovers, and after its end
// all memory is freed.
func TestADeviceRunsOutOfMemory(t *testing.T) {
	m, err := deploy.OpenModel(models(t)[0])
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	for _, transport := range []string{"inproc", "shm", "tcp"} {
		for device := range 3 { // two expert nodes, then the attention node
			for failAt := 1; ; failAt++ {
				devices := &ledgers{failAt: failAt, device: device}
				err := serveOne(t.Context(), m, deploy.Options{
					Experts: 2, Transport: transport, MaxBatchedTokens: 8, MaxNumSeqs: 2, KVMemory: 1 << 20, Threads: 1, Device: devices.make,
				})
				failed := false
				for i, d := range devices.all {
					require.Zero(t, d.Live(), "%s: buffers of device %d, where allocation %d of device %d has failed: %v", transport, i, failAt, device, err)
					failed = failed || d.Failed()
				}
				if !failed {
					require.NoError(t, err)
					break
				}
			}
		}
	}
}

// serveOne starts a deployment, asks it for two tokens and closes it.
func serveOne(ctx context.Context, m *deploy.Model, o deploy.Options) error {
	local, err := deploy.StartLocal(ctx, m, o, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err = ask(ctx, local.Engine, serve.Request{Prompt: []int32{1, 2, 3}, MaxTokens: 2, Logprobs: -1, PromptLogprobs: -1})
	if closed := local.Close(); err == nil {
		err = closed
	}
	return err
}
