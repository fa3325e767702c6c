package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
)

// counting counts the steps that begin on it.
type counting struct {
	kernel.Device
	steps atomic.Int32
}

func (c *counting) Embed(kernel.Mat, kernel.Weight, []int32) { c.steps.Add(1) }

func TestGateHoldsOneStep(t *testing.T) {
	dev := &counting{}
	g := &gate{Device: dev}
	step := func() { g.Embed(kernel.Mat{}, nil, nil) }
	step()
	require.EqualValues(t, 1, dev.steps.Load(), "nothing is held before the gate is armed")

	var at []int32 // steps that had begun when the run did
	g.arm(func() { at = append(at, dev.steps.Load()) })
	var node sync.WaitGroup
	node.Go(func() {
		for range 3 {
			step()
		}
	})
	require.NoError(t, g.wait(t.Context()))
	require.EqualValues(t, 1, dev.steps.Load())
	g.release()
	node.Wait()
	require.EqualValues(t, 4, dev.steps.Load())
	require.Equal(t, []int32{2}, at, "the run begins with the step after the held one, once")
}

func TestGateGivesUp(t *testing.T) {
	g := &gate{Device: &counting{}}
	g.arm(func() { t.Error("no step was held, none begins the run") })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, g.wait(ctx), context.Canceled)
	g.release()
	g.release()
	g.Embed(kernel.Mat{}, nil, nil)
	g.Embed(kernel.Mat{}, nil, nil)
}
