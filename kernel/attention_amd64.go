package kernel

//go:generate go run -C ../tools ./asmgen -family attention -out ../kernel/attention_amd64.s -stubs ../kernel/attention_stubs_amd64.go -pkg kernel

// avx2Queries is how many queries' sums fit the registers of AVX2, with one
// block of keys; AVX-512's hold maxQueries with two.
const avx2Queries = 6

// queriesAtOnce is how many queries scoreKeys and weighValues take.
func queriesAtOnce(isa ISA) int {
	if isa == AVX2 {
		return avx2Queries
	}
	return maxQueries
}

// scoreKeys is the scores of n queries, packed [dim][n], for a pair of blocks.
// Meanwhile the pair that is needed next comes from memory.
func scoreKeys(isa ISA, n int, s, q []float32, keys, next keyPair, scale float32) {
	dim := len(keys[0]) / KVBlock
	switch isa {
	case AVX512:
		scoreKeysAVX512(n, &s[0], &q[0], &keys[0][0], &keys[1][0], &next[0][0], &next[1][0], dim, scale)
	case AVX2:
		scoreKeysAVX2(n, &s[0], &q[0], &keys[0][0], &keys[1][0], &next[0][0], &next[1][0], dim, scale)
		if n > avx2Queries/2 { // the registers held one block's sums
			scoreKeysAVX2(n, &s[KVBlock], &q[0], &keys[1][0], nil, &next[1][0], nil, dim, scale)
		}
	default:
		scoreKeysPortable(n, s, q, keys, scale)
	}
}

// weighValues adds keys values [keys][dim] to the accumulators of n queries,
// each value multiplied by the query's weight. Meanwhile what is needed next
// comes from memory.
func weighValues(isa ISA, n, keys int, acc []float32, stride int, weights, values, next []float32, dim int) {
	done := 0
	switch {
	case isa == AVX512 && dim >= 16:
		done = dim &^ 15
		weighValuesAVX512(n, done/16, keys, &acc[0], 4*stride, &weights[0], &values[0], 4*dim, &next[0])
	case isa == AVX2 && dim >= 8:
		done = dim &^ 7
		weighValuesAVX2(n, done/8, keys, &acc[0], 4*stride, &weights[0], &values[0], 4*dim, &next[0])
	}
	if done < dim {
		weighValuesPortable(n, keys, acc, stride, weights, values, dim, done)
	}
}
