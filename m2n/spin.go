package m2n

import (
	"context"
	"runtime"
	"time"
)

// spinner decides how long a consumer looks for a completion again and again before it
// sleeps. Sleeping costs a wake-up of some 5 µs, spinning costs a core. So spinning pays
// where completions come soon, and where no other thread could use the core.
type spinner struct {
	most  time.Duration // Config.SpinFor; negative: never spin
	usual time.Duration // moving average of how long a completion takes to come
	cores int
	load  loadSampler
}

// loadSampler knows how many threads of the host want a core, this one included.
type loadSampler interface{ runnable() int }

// defaultSpin is Config.SpinFor's default: ten times what a wake-up costs.
const defaultSpin = 50 * time.Microsecond

func newSpinner(most time.Duration, load loadSampler) spinner {
	if most == 0 {
		most = defaultSpin
	}
	return spinner{most: most, cores: runtime.NumCPU(), load: load}
}

// limit is how long to spin now.
func (s *spinner) limit() time.Duration {
	if s.most <= 0 || s.usual > s.most || s.load.runnable() > s.cores {
		return 0
	}
	return s.most
}

// record notes how long a completion took to come. The average is over the last eight
// waits or so, and one long wait among short ones changes it little.
func (s *spinner) record(d time.Duration) {
	s.usual += (min(d, 2*s.most) - s.usual) / 8
}

// spin calls step until there is a completion, for at most limit. It reports whether
// there is one.
func (e *Endpoint) spin(ctx context.Context, limit time.Duration, step func()) bool {
	deadline := time.Now().Add(limit)
	for i := 1; limit > 0; i++ {
		if e.completions.length.Load() > 0 {
			return true
		}
		if i%16 == 0 && (ctx.Err() != nil || time.Now().After(deadline)) {
			return false
		}
		step()
	}
	return false
}
