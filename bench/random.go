package bench

import (
	"encoding/binary"
	"hash/fnv"
	"math"

	"github.com/tandem-moe/tandem/model/checkpoint"
)

// quantiles is how many different values a tensor's elements have: the middles
// of as many equally likely slices of a normal distribution. So a random element
// is a table's entry, four to a random word.
const quantiles = 1 << 12

// values is the table of a normal distribution: element i is the (i+½)/quantiles
// quantile.
func values(deviation float64) []float32 {
	t := make([]float32, quantiles)
	for i := range t {
		p := (float64(i) + 0.5) / quantiles
		t[i] = float32(deviation * math.Sqrt2 * math.Erfinv(2*p-1))
	}
	return t
}

// splitMix is a random word of a counter: SplitMix64's output function (Steele,
// Lea, Flood 2014). Words of different counters are independent, so any part of
// a tensor could be made by itself.
func splitMix(counter uint64) uint64 {
	z := counter * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// key is where a tensor's counters begin.
func key(seed uint64, name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return splitMix(h.Sum64() ^ splitMix(seed))
}

// normal fills data with elements of a normal distribution of mean 0, the
// tensor's own: they depend on seed, name and place alone.
func normal(data []byte, dtype checkpoint.DType, seed uint64, name string, deviation float64) {
	table, counter := values(deviation), key(seed, name)
	if dtype == checkpoint.BF16 {
		fillBF16(data, table, counter)
		return
	}
	fillF32(data, table, counter)
}

func fillBF16(data []byte, table []float32, counter uint64) {
	var rounded [quantiles]uint64
	for i, v := range table {
		rounded[i] = uint64(bf16(v))
	}
	for ; len(data) >= 8; data = data[8:] {
		w := splitMix(counter)
		counter++
		binary.LittleEndian.PutUint64(data, rounded[w%quantiles]|rounded[w>>16%quantiles]<<16|
			rounded[w>>32%quantiles]<<32|rounded[w>>48%quantiles]<<48)
	}
	w := splitMix(counter)
	for ; len(data) > 0; data = data[2:] {
		binary.LittleEndian.PutUint16(data, uint16(rounded[w%quantiles]))
		w >>= 16
	}
}

func fillF32(data []byte, table []float32, counter uint64) {
	var w uint64
	for i := 0; len(data) > 0; i, data = i+1, data[4:] {
		if w >>= 16; i%4 == 0 {
			w = splitMix(counter)
			counter++
		}
		binary.LittleEndian.PutUint32(data, math.Float32bits(table[w%quantiles]))
	}
}

// bf16 rounds to the nearest bfloat16, ties to even. Finite values only.
func bf16(v float32) uint16 {
	b := math.Float32bits(v)
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// ones fills data with 1.
func ones(data []byte, dtype checkpoint.DType) {
	one := make([]byte, 4)
	binary.LittleEndian.PutUint32(one, math.Float32bits(1))
	one = one[4-dtype.Size():] // bfloat16 is the upper half
	for len(data) > 0 {
		data = data[copy(data, one):]
	}
}
