//go:build !race

package m2n

// slowness is 1 where the race detector is not at work.
const slowness = 1
