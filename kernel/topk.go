package kernel

import (
	"fmt"
	"slices"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

// TopK turns each row of logits, one for each expert, into scores, and writes the
// TopK best experts, best first and ties to the lower, to ids and their weights to
// weights. Where a logit is not finite the choice is valid but meaningless: LogSumExp
// of the model's output shows it.
//
// A score of Softmax is exp(x−max)/sum in f32, the sum by the fixed tree; one of
// Sigmoid is 1/(1+exp(−x)). With Normalize a weight is divided by the weights' sum,
// best first, to which Sigmoid adds 1e-20: all scores can be 0 there.
func (c *CPU) TopK(ids, weights Buffer, logits Mat, p RouterParams) {
	m, toIDs, toWeights := view(logits), i32s(ids), f32s(weights)
	k := p.TopK
	if n := m.rows * k; len(toIDs) < n || len(toWeights) < n {
		panic(fmt.Sprintf("kernel: top-k: room for %d ids and %d weights, want %d", len(toIDs), len(toWeights), n))
	}
	r := &c.router
	*r = router{RouterParams: p, isa: c.isa, experts: m.cols}
	if p.Bias != nil {
		r.bias = f32s(p.Bias)
	}
	r.check()
	const cost = 8 // of an element, in plain row operations
	c.parallel(m.rows, worthSharingRows/(cost*m.cols+1)+1, func(lo, hi int) {
		w := r.worker()
		for row := lo; row < hi; row++ {
			w.choose(toIDs[row*k:(row+1)*k], toWeights[row*k:(row+1)*k], m.row(row))
		}
	})
}

// router is RouterParams for a number of experts.
type router struct {
	RouterParams
	isa     ISA
	experts int
	bias    []float32 // nil where there is none
}

// check panics where the parameters do not fit the number of experts.
func (r *router) check() {
	allowed := r.experts
	if r.Groups != 0 {
		if r.Groups < 0 || r.experts%r.Groups != 0 || r.TopGroups < 1 || r.TopGroups > r.Groups || r.GroupBest < 1 || r.GroupBest > r.experts/r.Groups {
			panic(fmt.Sprintf("kernel: top-k: %d experts in %d groups, the %d best by their %d best experts",
				r.experts, r.Groups, r.TopGroups, r.GroupBest))
		}
		allowed = r.TopGroups * (r.experts / r.Groups)
	}
	if r.TopK < 1 || r.TopK > allowed {
		panic(fmt.Sprintf("kernel: top-k: %d of %d columns", r.TopK, allowed))
	}
	if r.bias != nil {
		mustEqual("top-k", "elements of the bias", len(r.bias), r.experts)
	}
	if r.Scores > Sigmoid {
		panic(fmt.Sprintf("kernel: top-k: Scores(%d)", r.Scores))
	}
}

// routerWorker is one thread's memory for rows.
type routerWorker struct {
	*router
	scores []float32 // padded to whole lanes
	ranks  []float32 // experts are chosen by these; the scores, where nothing is added to them

	groupRanks, groupScores []float32
	groups, best            []int32
}

func (r *router) worker() routerWorker {
	w := routerWorker{router: r, scores: make([]float32, padLanes(r.experts))}
	w.ranks = w.scores[:r.experts]
	if r.bias != nil || r.Groups != 0 {
		w.ranks = make([]float32, r.experts)
	}
	if r.Groups != 0 {
		w.groupRanks, w.groups = make([]float32, r.Groups), make([]int32, r.TopGroups)
		w.groupScores, w.best = make([]float32, max(r.GroupBest, r.TopGroups)), make([]int32, r.GroupBest)
	}
	return w
}

// choose writes a row's experts and weights.
func (w *routerWorker) choose(ids []int32, weights, logits []float32) {
	w.score(logits)
	if w.bias != nil || w.Groups != 0 {
		w.rank()
	}
	best(ids, weights, w.ranks)
	for i, id := range ids {
		weights[i] = w.scores[id]
	}
	if w.Normalize {
		normalize(weights, w.Scores)
	}
	if w.Scale != 0 {
		scaleRowPortable(weights, w.Scale)
	}
}

// score turns a row's logits into scores.
func (w *routerWorker) score(logits []float32) {
	if w.Scores == Softmax {
		softmaxRow(w.isa, w.scores, logits)
		return
	}
	for i, x := range logits {
		w.scores[i] = detmath.Sigmoid32(x)
	}
}

// rank writes ranks: scores plus biases, and −Inf for experts of groups that may not be
// chosen from.
func (w *routerWorker) rank() {
	copy(w.ranks, w.scores)
	for i, b := range w.bias {
		w.ranks[i] += b
	}
	if w.Groups == 0 {
		return
	}
	size := w.experts / w.Groups
	for g := range w.groupRanks {
		best(w.best, w.groupScores[:w.GroupBest], w.ranks[g*size:(g+1)*size])
		w.groupRanks[g] = sumInOrder(w.groupScores[:w.GroupBest])
	}
	best(w.groups, w.groupScores[:w.TopGroups], w.groupRanks)
	for g := range w.groupRanks {
		if !slices.Contains(w.groups, int32(g)) {
			fillNegInf(w.ranks[g*size : (g+1)*size])
		}
	}
}

// softmaxRow writes the softmax of x to dst, which is padded to whole lanes.
func softmaxRow(isa ISA, dst, x []float32) {
	for i := copy(dst, x); i < len(dst); i++ {
		dst[i] = negInf
	}
	_, sum := softmax(isa, dst)
	divideRow(isa, dst, dst, sum)
}

// best chooses the len(idx) largest elements of p, in order and ties to the
// lower index; where nothing compares (NaN), the first.
func best(idx []int32, value, p []float32) {
	n := 0
	for i, v := range p {
		if n == len(idx) && !(v > value[n-1]) {
			continue
		}
		at := min(n, len(idx)-1)
		for ; at > 0 && v > value[at-1]; at-- {
			idx[at], value[at] = idx[at-1], value[at-1]
		}
		idx[at], value[at] = int32(i), v
		n = min(n+1, len(idx))
	}
}

// normalize divides weights by their sum.
func normalize(w []float32, s Scores) {
	sum := sumInOrder(w)
	if s == Sigmoid {
		sum += 1e-20
	}
	for i := range w {
		w[i] /= sum
	}
}

func sumInOrder(x []float32) float32 {
	sum := x[0]
	for _, v := range x[1:] {
		sum += v
	}
	return sum
}
