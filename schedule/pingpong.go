package schedule

import "fmt"

// Serving is the shape of a serving deployment.
type Serving struct {
	// Attention and Experts count the ranks of the two pools.
	Attention, Experts int
	// Layers counts the model's layers. Sparse tells which of them have experts;
	// nil means all.
	Layers int
	Sparse func(layer int) bool
	// MicroBatches is m. Two hide the experts' time behind attention's; three
	// or four hide the network as well: m ≥ 2(1 + T_c/T_f), where T_f is the time
	// of a layer's slower part and T_c that of a transfer.
	MicroBatches int
	// Steps is how often the model is run: how many tokens each sequence
	// advances by.
	Steps int
}

// PingPong makes the serving schedule of MegaScale-Infer (section 4.1): the
// micro-batches of an attention rank take turns, layer by layer, so that while
// one is with the experts the others have attention.
//
//	A0  A0F0 A0F1 A0F2 A1F0 A1F1 A1F2 … HF0  A0F0 HF1  A0F1 …
//	E0       E0F0 E0F1 E0F2 E1F0 E1F1 …  E1F2          E0F0 …
//
// A micro-batch begins its next step as soon as its head is done: between steps
// the pipeline does not drain. A schedule of more than [MaxActions] is refused
// before anything is allocated.
func PingPong(c Serving) (*Schedule, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("ping-pong: %w", err)
	}
	s := &Schedule{
		Name: "pingpong", Layers: c.Layers, Sparse: make([]bool, c.Layers),
		MicroBatches: c.MicroBatches, Steps: c.Steps, MaxLive: c.MicroBatches,
	}
	for l := range s.Sparse {
		s.Sparse[l] = c.sparse(l)
	}
	if err := c.checkExperts(s.Sparse); err != nil {
		return nil, fmt.Errorf("ping-pong: %w", err)
	}
	for i := range c.Attention {
		s.Ranks = append(s.Ranks, Rank{
			Name:    fmt.Sprintf("A%d", i),
			Owns:    []Stages{Layers(Attention, 0, c.Layers-1), heads},
			Actions: attentionActions(s),
		})
	}
	for i := range c.Experts {
		s.Ranks = append(s.Ranks, Rank{
			Name:    fmt.Sprintf("E%d", i),
			Owns:    ownSparse(s.Sparse),
			Actions: expertActions(s),
		})
	}
	return s, nil
}

// sparse reports whether a layer has experts.
func (c Serving) sparse(layer int) bool { return c.Sparse == nil || c.Sparse(layer) }

// check bounds the numbers.
func (c Serving) check() error {
	for _, f := range []struct {
		name           string
		n, least, most int
	}{
		{"attention ranks", c.Attention, 1, MaxActions}, {"expert ranks", c.Experts, 0, MaxActions},
		{"layers", c.Layers, 1, MaxLayers}, {"micro-batches", c.MicroBatches, 1, MaxActions},
		{"steps", c.Steps, 1, MaxActions},
	} {
		if f.n < f.least {
			return fmt.Errorf("%d %s, want at least %d", f.n, f.name, f.least)
		}
		if f.n > f.most {
			return fmt.Errorf("%d %s, at most %d", f.n, f.name, f.most)
		}
	}
	return c.checkActions()
}

// checkActions bounds the number of actions, before those of dense layers are
// taken off. Its factors are bounded by check, so that the product of
// two of them fits 64 bits.
func (c Serving) checkActions() error {
	n := int64(c.Attention+c.Experts) * int64(c.Layers+1)
	for _, factor := range []int{c.MicroBatches, c.Steps} {
		if n <= MaxActions {
			n *= int64(factor)
		}
	}
	if n > MaxActions {
		return fmt.Errorf("%d attention and %d expert ranks, %d layers, %d micro-batches and %d steps make more than %d actions",
			c.Attention, c.Experts, c.Layers, c.MicroBatches, c.Steps, MaxActions)
	}
	return nil
}

// checkExperts makes sure that sparse layers have expert ranks, and that these
// have sparse layers.
func (c Serving) checkExperts(sparse []bool) error {
	n := len(spans(sparse))
	if n > 0 && c.Experts < 1 {
		return fmt.Errorf("%d expert ranks, and the model has sparse layers", c.Experts)
	}
	if n == 0 && c.Experts != 0 {
		return fmt.Errorf("%d expert ranks, and the model has no sparse layer", c.Experts)
	}
	return nil
}

// attentionActions goes round the micro-batches at each layer; a step's heads
// and the next step's first layer go round together.
func attentionActions(s *Schedule) []Action {
	var list []Action
	for step := 1; step <= s.Steps; step++ {
		for l := range s.Layers {
			for i := range s.MicroBatches {
				if l == 0 && step > 1 {
					list = append(list, s.forward(step-1, Head, 0, i))
				}
				list = append(list, s.forward(step, Attention, l, i))
			}
		}
	}
	for i := range s.MicroBatches {
		list = append(list, s.forward(s.Steps, Head, 0, i))
	}
	return list
}

func expertActions(s *Schedule) []Action {
	var list []Action
	for step := 1; step <= s.Steps; step++ {
		for l, sparse := range s.Sparse {
			for i := 0; sparse && i < s.MicroBatches; i++ {
				list = append(list, s.forward(step, Experts, l, i))
			}
		}
	}
	return list
}

// forward makes an action, with the step where steps repeat.
func (s *Schedule) forward(step int, p Part, layer, micro int) Action {
	a := Action{Part: p, Layer: layer, Direction: Forward, MicroBatch: micro}
	if s.Steps > 1 {
		a.Step = step
	}
	return a
}

func ownSparse(sparse []bool) []Stages {
	var owns []Stages
	for _, sp := range spans(sparse) {
		owns = append(owns, Layers(Experts, sp[0], sp[1]))
	}
	return owns
}

// spans returns the runs of true, as first and last.
func spans(set []bool) [][2]int {
	var runs [][2]int
	for l, in := range set {
		switch {
		case !in:
		case l > 0 && set[l-1]:
			runs[len(runs)-1][1] = l
		default:
			runs = append(runs, [2]int{l, l})
		}
	}
	return runs
}
