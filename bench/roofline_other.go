//go:build !amd64 && !arm64

package bench

func flopsPerRound() int { return scalarFlopsPerRound }

func multiplyAdd(n int) { scalarMultiplyAdd(n) }

func readMemory(b []byte) { scalarRead(b) }
