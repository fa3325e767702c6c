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
	mem, err := c.memory.allocate(positions * 2 * len(inv) * F32.Size())
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

// RoPE rotates each head of headDim columns of row r for position pos[r]: of
// elements a = x[i] and b = x[i+headDim/2] it makes a·cos − b·sin and
// b·cos + a·sin, each product rounded.
func (c *CPU) RoPE(x Mat, headDim int, r Rope, pos []int32) {
	t, ok := r.(*ropeTable)
	if !ok {
		panic(fmt.Sprintf("kernel: rope: a %T is not a table of the CPU device", r))
	}
	m := view(x)
	mustEqual("rope", "positions", len(pos), m.rows)
	mustEqual("rope", "columns of a head", headDim, 2*t.half)
	if headDim == 0 || m.cols%headDim != 0 {
		panic(fmt.Sprintf("kernel: rope: %d columns in heads of %d", m.cols, headDim))
	}
	for _, p := range pos {
		if p < 0 || int(p) >= t.positions {
			panic(fmt.Sprintf("kernel: rope: position %d of a table of %d", p, t.positions))
		}
	}
	c.eachRow(m.rows, m.cols, func(r int) {
		cos, sin := t.at(int(pos[r]))
		for row := m.row(r); len(row) > 0; row = row[headDim:] {
			rotate(c.isa, row[:t.half], row[t.half:headDim], cos, sin)
		}
	})
	runtime.KeepAlive(t)
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
