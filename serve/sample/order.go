package sample

import "math"

// Candidates are ordered by logit, best first, those with equal logits by rising id.
// An orderKey is a number that has the candidates' order: a better candidate has a
// lower key. Its upper half is the logit's bits, flipped so that they fall as the
// logit rises; its lower half is the id, which makes keys distinct.
type orderKey = uint64

func keyOf(logit float32, id int) orderKey {
	if logit == 0 {
		logit = 0 // −0 ties with +0
	}
	b := math.Float32bits(logit)
	if b>>31 == 0 {
		b = ^b &^ (1 << 31)
	}
	return uint64(b)<<32 | uint64(uint32(id))
}

func tokenOf(k orderKey) int32 { return int32(uint32(k)) }

func logitOf(k orderKey) float32 {
	b := uint32(k >> 32)
	if b>>31 == 0 {
		b = ^b &^ (1 << 31)
	}
	return math.Float32frombits(b)
}

// digitBits is how many bits of a key one round of selection looks at: its 2048 sums
// fit the first-level cache.
const digitBits = 11

// selector finds where the best candidates' weights sum to a target, without sorting.
// It is a radix selection from the top digit down, which follows the one bucket in
// which the sum of weights reaches the target. Weights are integers, so that sums do
// not depend on the order of addition.
type selector struct {
	sums    [1 << digitBits]uint64
	keys    []orderKey
	weights []uint64
}

// cut returns the last key of the shortest prefix of the sorted keys whose weights
// reach the target. The target lies between 1 and the sum of all weights; nil weights
// mean 1 per key. Each round reads only the keys that share all upper digits with the
// result.
func (s *selector) cut(keys []orderKey, weights []uint64, target uint64) orderKey {
	for shift := 64 - digitBits; ; shift = max(shift-digitBits, 0) {
		bucket, before := s.crossing(keys, weights, shift, target)
		target -= before
		keys, weights = s.narrow(keys, weights, shift, bucket)
		if len(keys) == 1 {
			return keys[0]
		}
	}
}

// crossing returns the bucket in which the running sum of weights reaches the target,
// and the sum of the buckets before it.
func (s *selector) crossing(keys []orderKey, weights []uint64, shift int, target uint64) (bucket, before uint64) {
	clear(s.sums[:])
	for i, k := range keys {
		w := uint64(1)
		if weights != nil {
			w = weights[i]
		}
		s.sums[digit(k, shift)] += w
	}
	for before+s.sums[bucket] < target {
		before += s.sums[bucket]
		bucket++
	}
	return bucket, before
}

// narrow returns the keys of a bucket and their weights, in the selector's own memory.
func (s *selector) narrow(keys []orderKey, weights []uint64, shift int, bucket uint64) ([]orderKey, []uint64) {
	s.keys, s.weights = s.keys[:0], s.weights[:0]
	for i, k := range keys {
		if digit(k, shift) != bucket {
			continue
		}
		s.keys = append(s.keys, k)
		if weights != nil {
			s.weights = append(s.weights, weights[i])
		}
	}
	if weights == nil {
		return s.keys, nil
	}
	return s.keys, s.weights
}

func digit(k orderKey, shift int) uint64 { return k >> shift & (1<<digitBits - 1) }
