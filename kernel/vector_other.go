//go:build !amd64

package kernel

// On other machines the portable versions are the only ones.

func sumSquaresLanes(_ ISA, l *lanes, x []float32) { sumSquaresPortable(l, x) }

func normRow(_ ISA, dst, x, w []float32, scale float32) { normRowPortable(dst, x, w, scale) }

func rotate(_ ISA, a, b, cos, sin []float32) { rotatePortable(a, b, cos, sin) }

func swiGLURow(_ ISA, dst, g, u []float32) { swiGLURowPortable(dst, g, u) }

func softmax(_ ISA, x []float32) (maximum, sum float32) { return softmaxPortable(x) }

func extremes(_ ISA, x []float32) (low, high float32) { return extremesPortable(x) }

func sumExpLanes(_ ISA, l *lanes, x []float32, m float32) { sumExpPortable(l, x, m) }

func divideRow(_ ISA, dst, x []float32, d float32) { divideRowPortable(dst, x, d) }

func rescaleAdd(_ ISA, x, y []float32, f, g float32) { rescaleAddPortable(x, y, f, g) }

// queriesAtOnce is how many queries scoreKeys and weighValues take.
func queriesAtOnce(ISA) int { return maxQueries }

func scoreKeys(_ ISA, n int, s, q []float32, keys, _ keyPair, scale float32) {
	scoreKeysPortable(n, s, q, keys, scale)
}

func weighValues(_ ISA, n, keys int, acc []float32, stride int, weights, values, _ []float32, dim int) {
	weighValuesPortable(n, keys, acc, stride, weights, values, dim, 0)
}
