package kernel

import "fmt"

// cacheView is a KV whose memory has been looked up and checked once.
type cacheView struct {
	k, v       []float32
	pageTokens int
	heads      int
	keyDim     int // of a key and a query
	valueDim   int // of a value and a result
}

// viewKV checks a cache's shape.
func viewKV(c KV) cacheView {
	if c.PageTokens <= 0 || c.PageTokens%KVBlock != 0 || (Span%c.PageTokens != 0 && c.PageTokens%Span != 0) {
		panic(fmt.Sprintf("kernel: cache: pages of %d tokens: want a multiple of %d that divides %d or is a multiple of it",
			c.PageTokens, KVBlock, Span))
	}
	if c.Heads <= 0 || c.KeyDim <= 0 || c.ValueDim <= 0 || c.KeyOff < 0 || c.ValueOff < 0 {
		panic(fmt.Sprintf("kernel: cache: %d heads of %d and %d, at elements %d and %d", c.Heads, c.KeyDim, c.ValueDim, c.KeyOff, c.ValueOff))
	}
	k, v := f32s(c.K), f32s(c.V)
	if c.KeyOff > len(k) || c.ValueOff > len(v) {
		panic(fmt.Sprintf("kernel: cache: starts at element %d of %d keys' and %d of %d values' elements", c.KeyOff, len(k), c.ValueOff, len(v)))
	}
	return cacheView{
		k: k[c.KeyOff:], v: v[c.ValueOff:], pageTokens: c.PageTokens,
		heads: c.Heads, keyDim: c.KeyDim, valueDim: c.ValueDim,
	}
}

// pages is how many whole pages lie in the cache.
func (c *cacheView) pages() int {
	return min(len(c.k)/(c.pageTokens*c.heads*c.keyDim), len(c.v)/(c.pageTokens*c.heads*c.valueDim))
}

// keyBlock is the block of KVBlock keys [keyDim][KVBlock] that holds a position.
func (c *cacheView) keyBlock(pages []int32, head, pos int) []float32 {
	page, in := int(pages[pos/c.pageTokens]), pos%c.pageTokens
	at := ((page*c.heads+head)*c.pageTokens + in&^(KVBlock-1)) * c.keyDim
	return c.k[at : at+KVBlock*c.keyDim]
}

// values are the values [n][valueDim] of positions pos … pos+n-1, which lie in
// one page.
func (c *cacheView) values(pages []int32, head, pos, n int) []float32 {
	page, in := int(pages[pos/c.pageTokens]), pos%c.pageTokens
	at := ((page*c.heads+head)*c.pageTokens + in) * c.valueDim
	return c.v[at : at+n*c.valueDim]
}

// checkSequences panics where rows or pages of a sequence do not exist.
func (c *cacheView) checkSequences(op string, seqs []Sequence, rows int) {
	have := c.pages()
	for i, s := range seqs {
		if s.Row < 0 || s.Rows < 0 || s.Row+s.Rows > rows || s.Pos < 0 {
			panic(fmt.Sprintf("kernel: %s: sequence %d has rows %d+%d of %d, from position %d", op, i, s.Row, s.Rows, rows, s.Pos))
		}
		if s.Rows == 0 {
			continue
		}
		if need := (s.Pos + s.Rows + c.pageTokens - 1) / c.pageTokens; len(s.Pages) < need {
			panic(fmt.Sprintf("kernel: %s: sequence %d has %d pages, its %d positions need %d", op, i, len(s.Pages), s.Pos+s.Rows, need))
		}
		for _, p := range s.Pages {
			if p < 0 || int(p) >= have {
				panic(fmt.Sprintf("kernel: %s: sequence %d has page %d of %d", op, i, p, have))
			}
		}
	}
}

// StoreKV writes the rows of k [rows, Heads·KeyDim] and v [rows, Heads·ValueDim] to
// the cache, at the sequences' positions.
func (c *CPU) StoreKV(kv KV, k, v Mat, seqs []Sequence) {
	cache, keys, values := viewKV(kv), view(k), view(v)
	mustEqual("store kv", "rows of v", values.rows, keys.rows)
	mustEqual("store kv", "columns of k", keys.cols, cache.heads*cache.keyDim)
	mustEqual("store kv", "columns of v", values.cols, cache.heads*cache.valueDim)
	cache.checkSequences("store kv", seqs, keys.rows)
	blocks := 0
	for i := range seqs {
		blocks += seqs[i].blocks()
	}
	// Each block of keys is written by one thread, a cache line at a time.
	const cost = 4 // of an element, in plain row operations
	c.parallel(blocks, worthSharingRows/(cost*KVBlock*keys.cols+1)+1, func(lo, hi int) {
		for i := range seqs {
			n := seqs[i].blocks()
			for b := max(lo, 0); b < min(hi, n); b++ {
				cache.storeBlock(&seqs[i], b, keys, values)
			}
			lo, hi = lo-n, hi-n
		}
	})
}

// blocks is how many blocks of keys hold the sequence's rows.
func (s *Sequence) blocks() int {
	if s.Rows == 0 {
		return 0
	}
	return (s.Pos+s.Rows-1)/KVBlock + 1 - s.Pos/KVBlock
}

// storeBlock writes a sequence's rows that lie in the i-th of its blocks.
func (c *cacheView) storeBlock(s *Sequence, i int, keys, values matrix) {
	first := (s.Pos/KVBlock + i) * KVBlock
	lo, hi := max(s.Pos, first), min(s.Pos+s.Rows, first+KVBlock)
	row := s.Row + lo - s.Pos
	for head := range c.heads {
		c.storeKeys(c.keyBlock(s.Pages, head, lo), lo-first, keys.rowRange(row, row+hi-lo), head)
		to := c.values(s.Pages, head, lo, hi-lo)
		for r := range hi - lo {
			from := values.row(row + r)[head*c.valueDim:]
			copy(to[r*c.valueDim:(r+1)*c.valueDim], from)
		}
	}
}

// storeKeys writes one head of rows to the columns at … of a block.
func (c *cacheView) storeKeys(block []float32, at int, rows matrix, head int) {
	from := rows.data[head*c.keyDim:]
	for d := range c.keyDim {
		line := block[d*KVBlock+at:]
		for r := range rows.rows {
			line[r] = from[r*rows.stride+d]
		}
	}
}
