//go:build race

package deploy_test

// raceEnabled: the race detector makes arithmetic in Go many times slower.
const raceEnabled = true
