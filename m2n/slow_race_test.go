//go:build race

package m2n

// slowness is how many times slower the race detector makes these tests, at least. Their
// timeouts are multiplied by it.
const slowness = 4
