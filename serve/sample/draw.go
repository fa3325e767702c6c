package sample

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// ErrNothingAllowed says that every token of a row is masked.
var ErrNothingAllowed = errors.New("every token is masked")

// NotFiniteError says that a logit is NaN or +Inf.
type NotFiniteError struct {
	Token int32
	Logit float32
}

func (e *NotFiniteError) Error() string {
	return fmt.Sprintf("the logit of token %d is %v", e.Token, e.Logit)
}

// Sampler holds the memory that sampling works in. One goroutine at a time may use
// it, for any number of requests. The zero value is ready.
type Sampler struct {
	row      []float32
	keys     []orderKey
	weights  []uint64
	selector selector
}

// Sample chooses the token at output position c.Outputs() from a row of raw logits,
// one per token of the vocabulary. It does not change the row. −Inf masks a token.
// Errors: *[NotFiniteError], [ErrNothingAllowed].
func (s *Sampler) Sample(logits []float32, chain *Chain, c *Counter) (int32, error) {
	best, err := bestOf(logits)
	if err != nil {
		return 0, err
	}
	row := logits
	if len(chain.Processors) > 0 {
		row = s.process(logits, chain, c)
		if best, err = bestOf(row); err != nil {
			return 0, err
		}
	}
	if chain.Temperature == 0 {
		return best, nil
	}
	s.keep(row, row[best], chain)
	return s.draw(random64(chain.Seed, chain.Choice, uint64(c.Outputs()))), nil
}

// bestOf returns the token with the highest logit; of equal logits, the lowest id.
func bestOf(row []float32) (int32, error) {
	if len(row) > MaxVocabulary {
		return 0, fmt.Errorf("a vocabulary of %d, the limit is %d", len(row), MaxVocabulary)
	}
	best, at := float32(math.Inf(-1)), -1
	for i, v := range row {
		if !(v <= math.MaxFloat32) {
			return 0, &NotFiniteError{int32(i), v}
		}
		if v > best {
			best, at = v, i
		}
	}
	if at < 0 {
		return 0, ErrNothingAllowed
	}
	return int32(at), nil
}

func (s *Sampler) process(logits []float32, chain *Chain, c *Counter) []float32 {
	s.row = append(s.row[:0], logits...)
	for _, p := range chain.Processors {
		p.Process(s.row, c)
	}
	return s.row
}

// keep fills s.keys and s.weights with the candidates that the chain allows, by rising
// id.
func (s *Sampler) keep(row []float32, best float32, chain *Chain) {
	least := leastWeight(chain.MinP)
	s.gather(row, floor(best, chain.Temperature, least))
	if k := chain.TopK; k > 0 && k < len(s.keys) {
		s.truncate(s.selector.cut(s.keys, nil, uint64(k)))
	}
	total := s.weigh(float64(best), chain.Temperature, least)
	if chain.limitsMass() {
		s.truncate(s.selector.cut(s.keys, s.weights, share(chain.TopP, total)))
	}
}

// gather fills s.keys with the candidates whose logits are not below the floor, by
// rising id.
func (s *Sampler) gather(row []float32, floor float64) {
	keys := s.keys[:0]
	for i, v := range row {
		if float64(v) >= floor {
			keys = append(keys, keyOf(v, i))
		}
	}
	s.keys, s.weights = keys, s.weights[:0]
}

// weigh computes the candidates' weights, drops candidates below the least weight, and
// returns the sum of the others.
func (s *Sampler) weigh(best, temperature float64, least uint64) (total uint64) {
	keys, weights := s.keys[:0], s.weights[:0]
	for _, k := range s.keys {
		w := weight((float64(logitOf(k)) - best) / temperature)
		if w < least {
			continue
		}
		keys, weights = append(keys, k), append(weights, w)
		total += w
	}
	s.keys, s.weights = keys, weights
	return total
}

// truncate drops the candidates that come after last in their order. It works before
// weigh too, when there are no weights.
func (s *Sampler) truncate(last orderKey) {
	keys, weights := s.keys[:0], s.weights[:0]
	for i, k := range s.keys {
		if k > last {
			continue
		}
		keys = append(keys, k)
		if len(s.weights) > 0 {
			weights = append(weights, s.weights[i])
		}
	}
	s.keys, s.weights = keys, weights
}

// draw lays the candidates' weights end to end, by rising id, and returns the
// candidate on whose part the point random/2⁶⁴ of the whole length falls.
func (s *Sampler) draw(random uint64) int32 {
	var total uint64
	for _, w := range s.weights {
		total += w
	}
	point, _ := bits.Mul64(random, total)
	for i, w := range s.weights {
		if point < w {
			return tokenOf(s.keys[i])
		}
		point -= w
	}
	panic("sample: a point beyond the weights")
}
