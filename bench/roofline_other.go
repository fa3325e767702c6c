//go:build !amd64 && !arm64

package bench

func machineLoops() loops { return scalarLoops() }
