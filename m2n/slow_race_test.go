//go:build race

package m2n

// slowness is by how much the race detector makes these tests slower, at least:
// their timeouts grow with it.
const slowness = 4
