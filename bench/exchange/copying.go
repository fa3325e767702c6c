package exchange

import (
	"runtime"
	"sync"
	"time"
)

// copying measures how fast all cores together copy memory: what an exchange on
// one host can reach at most, if each byte is copied once.
type copying struct {
	from, to [][]byte // for each core
}

// copyBytes are those of a core, more than its caches hold.
const copyBytes = 32 << 20

func newCopying() *copying {
	c := &copying{}
	for range runtime.NumCPU() {
		c.from = append(c.from, make([]byte, copyBytes))
		c.to = append(c.to, make([]byte, copyBytes))
	}
	c.measure() // touches the pages
	return c
}

// measure copies once, and returns bytes a second.
func (c *copying) measure() float64 {
	var done sync.WaitGroup
	start := time.Now()
	for i := range c.from {
		done.Go(func() { copy(c.to[i], c.from[i]) })
	}
	done.Wait()
	return float64(len(c.from)*copyBytes) / time.Since(start).Seconds()
}
