package kernel

import (
	"fmt"
	"runtime"

	"github.com/tandem-moe/tandem/kernel/detmath"
)

// ropeTable is the CPU's Rope: for each position half cosines, then half sines.
type ropeTable struct {
	half      int
	positions int
	mem       memory
	values    []float32
}

func (t *ropeTable) Positions() int { return t.positions }
func (t *ropeTable) Pairs() int     { return t.half }

// at is position p's cosines and sines.
func (t *ropeTable) at(p int) (cos, sin []float32) {
	row := t.values[p*2*t.half : (p+1)*2*t.half]
	return row[:t.half], row[t.half:]
}

// NewRope tabulates cos(p·inv[i])·scale and sin(p·inv[i])·scale for positions
// p < positions. The angle is the f32 product of p and inv[i]; its cosine and
// sine are taken and scaled in float64, and rounded once.
func (c *CPU) NewRope(inv []float32, scale float32, positions int) (Rope, error) {
	// Beyond 2²⁴ neighbouring positions are the same float32.
	if positions < 0 || positions > 1<<24 {
		return nil, fmt.Errorf("rope table: %d positions, want 0 to %d", positions, 1<<24)
	}
	t := &ropeTable{half: len(inv), positions: positions}
	mem, err := c.memory.allocate(F32.Bytes(positions * 2 * len(inv)))
	if err != nil {
		return nil, fmt.Errorf("rope table of %d positions: %w", positions, err)
	}
	t.mem, t.values = mem, castSlice[float32](mem.bytes)
	if mem.mapped != nil {
		runtime.AddCleanup(t, memory.release, mem)
	}
	c.eachRow(positions, 64*len(inv), func(p int) {
		cos, sin := t.at(p)
		for i, f := range inv {
			s, c := detmath.SinCos(float64(float32(float32(p) * f)))
			cos[i] = float32(float64(c * float64(scale)))
			sin[i] = float32(float64(s * float64(scale)))
		}
	})
	return t, nil
}

// RoPE rotates elements p.First … p.First+2n-1 of each head of row r for position
// pos[r], where n is the table's number of pairs: of a pair (a, b) it makes
// (a·cos − b·sin, b·cos + a·sin), each product rounded.
func (c *CPU) RoPE(x Mat, r Rope, p RopeParams, pos []int32) {
	t, ok := r.(*ropeTable)
	if !ok {
		panic(fmt.Sprintf("kernel: rope: a %T is not a table of the CPU device", r))
	}
	m := view(x)
	mustEqual("rope", "positions", len(pos), m.rows)
	t.check(m.cols, p, pos)
	c.eachRow(m.rows, m.cols, func(r int) { t.turn(c.isa, m.row(r), p, int(pos[r])) })
	runtime.KeepAlive(t)
}

// turn rotates the heads of one row.
func (t *ropeTable) turn(isa ISA, row []float32, p RopeParams, pos int) {
	cos, sin := t.at(pos)
	n := t.half
	for at := p.First; at < len(row); at += p.HeadDim {
		if p.Interleaved {
			rotateInterleaved(row[at:at+2*n], cos, sin)
		} else {
			rotate(isa, row[at:at+n], row[at+n:at+2*n], cos, sin)
		}
	}
}

// check panics where heads, the part that is rotated, or positions do not fit.
func (t *ropeTable) check(cols int, p RopeParams, pos []int32) {
	if p.First < 0 || p.First+2*t.half > p.HeadDim {
		panic(fmt.Sprintf("kernel: rope: %d pairs from element %d of heads of %d", t.half, p.First, p.HeadDim))
	}
	if p.HeadDim == 0 || cols%p.HeadDim != 0 {
		panic(fmt.Sprintf("kernel: rope: %d columns in heads of %d", cols, p.HeadDim))
	}
	for _, p := range pos {
		if p < 0 || int(p) >= t.positions {
			panic(fmt.Sprintf("kernel: rope: position %d of a table of %d", p, t.positions))
		}
	}
}

// rotateInterleaved turns the pairs (x[2i], x[2i+1]) by the given angles.
func rotateInterleaved(x, cos, sin []float32) {
	sin = sin[:len(cos)]
	for i, c := range cos {
		s, a, b := sin[i], x[2*i], x[2*i+1]
		x[2*i] = float32(a*c) - float32(b*s)
		x[2*i+1] = float32(b*c) + float32(a*s)
	}
}

// rotatePortable turns the pairs (a[i], b[i]) by the given angles.
func rotatePortable(a, b, cos, sin []float32) {
	b, cos, sin = b[:len(a)], cos[:len(a)], sin[:len(a)]
	for i, x := range a {
		y := b[i]
		a[i] = float32(x*cos[i]) - float32(y*sin[i])
		b[i] = float32(y*cos[i]) + float32(x*sin[i])
	}
}
