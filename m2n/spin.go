package m2n

import (
	"context"
	"runtime"
	"time"
)

// spinner decides how long a consumer looks again and again before it sleeps.
// Sleeping costs a wake-up, some 5 µs; spinning costs a core. It pays where what
// comes comes soon, and where nobody else could use the core.
type spinner struct {
	most    time.Duration // Config.SpinFor; negative: never
	typical time.Duration // how long it takes until something comes, of late
	cores   int
	busy    sampler
}

// sampler knows how many threads of the host want a core, this one included.
type sampler interface{ runnable() int }

// defaultSpin is the longest that something may take to come so that spinning is
// worth it.
const defaultSpin = 50 * time.Microsecond

func newSpinner(most time.Duration, busy sampler) spinner {
	if most == 0 {
		most = defaultSpin
	}
	return spinner{most: most, cores: runtime.NumCPU(), busy: busy}
}

// limit is how long to spin now.
func (s *spinner) limit() time.Duration {
	if s.most <= 0 || s.typical > s.most || s.busy.runnable() > s.cores {
		return 0
	}
	return s.most
}

// took notes how long it took until something came. Of late is the last eight
// times or so; one long wait among short ones does not change much.
func (s *spinner) record(d time.Duration) {
	s.typical += (min(d, 2*s.most) - s.typical) / 8
}

// spin looks for a completion for at most limit, doing step meanwhile.
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
