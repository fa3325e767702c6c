package kernel

// maxQueries is how many queries of one kv head are worked on together, so that
// they share each key and value that is loaded.
const maxQueries = 12

// queryTile is rows of one sequence and some heads of each kv head's group: at
// most maxQueries queries.
type queryTile struct {
	seq    int
	row    int // the first row, of the batch
	rows   int
	pos    int // the first row's position
	head   int // the first head, of the group
	heads  int
	spanLo int // the spans that its rows see
	spanHi int
}

func (t *queryTile) queries() int { return t.rows * t.heads }
func (t *queryTile) spans() int   { return t.spanHi - t.spanLo }

// cost is about the work of a tile for one kv head. Where queries are few, the
// way of keys and values from memory decides.
func (t *queryTile) cost() int { return t.spans() * max(t.queries(), 4) }

// piece is what a thread takes at once: either units lo … hi-1, where a unit is
// a tile of a kv head and unit u is tile u mod tiles of head u div tiles, or
// some spans of one unit, which is cut.
type piece struct {
	lo, hi         int
	spanLo, spanHi int
	cut            int // an index of attention.cuts, or -1
}

// cut is a unit whose spans several threads reduce, each span by itself; they
// are merged afterwards, in order.
type cut struct {
	unit  int
	first int // its first span's place in attention.partials
}

// plan cuts the operation into pieces of about equal work: whole units where
// they are many, and spans where a long context has few queries.
func (a *attention) plan(threads int) {
	a.makeTiles()
	a.work = 0
	for i := range a.tiles {
		a.work += a.tiles[i].cost() * a.cache.heads
	}
	const piecesPerThread = 8
	longest := a.work // of a unit that is left whole
	if threads > 1 {
		longest /= 2 * threads
	}
	a.makePieces(a.work/(threads*piecesPerThread)+1, longest)
}

// makePieces collects units until their cost is share, and cuts a unit whose cost is
// above longest.
func (a *attention) makePieces(share, longest int) {
	a.pieces, a.cuts = a.pieces[:0], a.cuts[:0]
	partials, lo, sum := 0, 0, 0
	units := len(a.tiles) * a.cache.heads
	for u := range units {
		t := a.tile(u)
		if t.cost() > longest && t.spans() > 1 {
			a.addUnits(lo, u)
			partials += a.addCut(u, partials, share)
			lo, sum = u+1, 0
		} else if sum += t.cost(); sum >= share {
			a.addUnits(lo, u+1)
			lo, sum = u+1, 0
		}
	}
	a.addUnits(lo, units)
	a.partials = growFloats(a.partials, partials)
}

func (a *attention) tile(unit int) *queryTile { return &a.tiles[unit%len(a.tiles)] }

func (a *attention) addUnits(lo, hi int) {
	if lo < hi {
		a.pieces = append(a.pieces, piece{lo: lo, hi: hi, cut: -1})
	}
}

// addCut cuts a unit into pieces of about the given cost and returns the floats
// that its partial results need.
func (a *attention) addCut(unit, first, share int) int {
	t := a.tile(unit)
	step := max(1, share*t.spans()/t.cost())
	for s := t.spanLo; s < t.spanHi; s += step {
		a.pieces = append(a.pieces, piece{
			lo: unit, hi: unit + 1, spanLo: s, spanHi: min(s+step, t.spanHi), cut: len(a.cuts),
		})
	}
	a.cuts = append(a.cuts, cut{unit: unit, first: first})
	return t.spans() * a.partialSize()
}

// grain is how many pieces are worth a hand-off to another thread.
func (a *attention) grain() int {
	const worthSharing = 256 << 10 // multiply-adds
	work := a.work * Span * (a.cache.keyDim + a.cache.valueDim)
	return worthSharing*len(a.pieces)/(work+1) + 1
}

// makeTiles cuts the sequences' rows and a group's heads into tiles.
func (a *attention) makeTiles() {
	a.tiles = a.tiles[:0]
	group := a.group()
	rows := max(1, maxQueries/group)
	for i := range a.seqs {
		s := &a.seqs[i]
		for r := 0; r < s.Rows; r += rows {
			for h := 0; h < group; h += maxQueries {
				a.addTile(queryTile{
					seq: i, row: s.Row + r, rows: min(rows, s.Rows-r), pos: s.Pos + r,
					head: h, heads: min(maxQueries, group-h),
				})
			}
		}
	}
}

// addTile adds a tile with the spans that its rows see.
func (a *attention) addTile(t queryTile) {
	lo, _ := a.keys(t.pos)
	_, hi := a.keys(t.pos + t.rows - 1)
	t.spanLo, t.spanHi = lo/Span, (hi-1)/Span+1
	a.tiles = append(a.tiles, t)
}
