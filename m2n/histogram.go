package m2n

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"
)

// Buckets is the number of a Histogram's buckets.
const Buckets = 40

// Histogram counts durations in powers of two: bucket 0 is 0 ns, bucket b holds
// 2^(b-1) ≤ d < 2^b nanoseconds; the last one also what is longer (275 s).
type Histogram struct {
	Count   uint64
	Sum     time.Duration
	Buckets [Buckets]uint64
}

// Mean is the average duration, 0 where nothing was counted.
func (h Histogram) Mean() time.Duration {
	if h.Count == 0 {
		return 0
	}
	return h.Sum / time.Duration(h.Count)
}

// Quantile returns the upper bound of the bucket in which the q-th (0 to 1) part
// of the durations ends, 0 where nothing was counted.
func (h Histogram) Quantile(q float64) time.Duration {
	if h.Count == 0 {
		return 0
	}
	rank := uint64(q * float64(h.Count))
	var seen uint64
	for b, n := range h.Buckets {
		seen += n
		if n > 0 && seen > rank || seen == h.Count {
			return BucketBound(b)
		}
	}
	return BucketBound(Buckets - 1)
}

// BucketBound is the upper bound of bucket b, exclusive.
func BucketBound(b int) time.Duration { return 1 << b }

// bucketJSON is a bucket that is not empty, in JSON.
type bucketJSON struct {
	Below time.Duration `json:"below_ns"`
	Count uint64        `json:"count"`
}

// histogramJSON is a Histogram in JSON.
type histogramJSON struct {
	Count   uint64        `json:"count"`
	Sum     time.Duration `json:"sum_ns"`
	Buckets []bucketJSON  `json:"buckets"`
}

// MarshalJSON writes the buckets that are not empty, by their upper bounds.
func (h Histogram) MarshalJSON() ([]byte, error) {
	j := histogramJSON{Count: h.Count, Sum: h.Sum, Buckets: []bucketJSON{}}
	for b, n := range h.Buckets {
		if n > 0 {
			j.Buckets = append(j.Buckets, bucketJSON{BucketBound(b), n})
		}
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (h *Histogram) UnmarshalJSON(text []byte) error {
	var j histogramJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	read := Histogram{Sum: j.Sum}
	for _, b := range j.Buckets {
		at := bits.Len64(uint64(b.Below)) - 1
		if at < 0 || at >= Buckets || BucketBound(at) != b.Below {
			return fmt.Errorf("m2n: histogram: %d ns is no bucket's bound: want a power of two, at most %d", b.Below, BucketBound(Buckets-1))
		}
		read.Buckets[at] += b.Count
		read.Count += b.Count
	}
	if read.Count != j.Count {
		return fmt.Errorf("m2n: histogram: the buckets hold %d, the count says %d", read.Count, j.Count)
	}
	*h = read
	return nil
}

// histogram is a Histogram that is being counted.
type histogram struct {
	sum     atomic.Int64
	buckets [Buckets]atomic.Uint64
}

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.sum.Add(int64(d))
	h.buckets[min(bits.Len64(uint64(d)), Buckets-1)].Add(1)
}

func (h *histogram) snapshot() Histogram {
	s := Histogram{Sum: time.Duration(h.sum.Load())}
	for b := range h.buckets {
		s.Buckets[b] = h.buckets[b].Load()
		s.Count += s.Buckets[b]
	}
	return s
}
