package route

import (
	"encoding/binary"
	"fmt"
)

// MaxPlacement bounds the bytes of an encoded placement: 60 layers of 256 experts
// that are all placed otherwise and live on two nodes each take 50 KB.
const MaxPlacement = 512 << 10

// Append encodes a valid placement, without its version, at the end of b. All
// numbers are unsigned varints: the nodes; how many different layers there are, and
// of each the number of experts, and for each expert how many nodes it has and which,
// the first one itself and of the others the distance to the one before; the number
// of layers, and for each 0 where it has no experts, else which of the different
// layers it is, from 1.
func (p Placement) Append(b []byte) []byte {
	var different []byte
	known := map[string]int{}
	index := make([]int, len(p.Layers))
	for l, homes := range p.Layers {
		if len(homes) == 0 {
			continue
		}
		encoded := string(homes.append(nil))
		if known[encoded] == 0 {
			known[encoded] = len(known) + 1
			different = append(different, encoded...)
		}
		index[l] = known[encoded]
	}
	b = binary.AppendUvarint(b, uint64(p.Nodes))
	b = binary.AppendUvarint(b, uint64(len(known)))
	b = append(b, different...)
	b = binary.AppendUvarint(b, uint64(len(index)))
	for _, i := range index {
		b = binary.AppendUvarint(b, uint64(i))
	}
	return b
}

func (h Homes) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(h)))
	for _, nodes := range h {
		b = binary.AppendUvarint(b, uint64(len(nodes)))
		before := 0
		for _, n := range nodes {
			b = binary.AppendUvarint(b, uint64(n-before))
			before = n
		}
	}
	return b
}

// ParsePlacement decodes what Append wrote, and validates it. Two encodings of one
// placement are equal: what could have been written otherwise is refused.
func ParsePlacement(version uint64, b []byte) (Placement, error) {
	if len(b) > MaxPlacement {
		return Placement{}, fmt.Errorf("placement %d: %d bytes, the limit is %d", version, len(b), MaxPlacement)
	}
	r := placementReader{left: b}
	p := Placement{Version: version, Nodes: r.number("nodes", MaxNodes)}
	different := make([]Homes, r.count("different layers", MaxLayers))
	known := map[string]bool{}
	for i := range different {
		begin := r.left
		different[i] = r.homes()
		encoded := string(begin[:len(begin)-len(r.left)])
		if known[encoded] {
			r.fail("different layer %d is like one before it", i+1)
		}
		known[encoded] = true
	}
	p.Layers = r.layers(different)
	if len(r.left) > 0 {
		r.fail("%d bytes follow its end", len(r.left))
	}
	if r.err != nil {
		return Placement{}, fmt.Errorf("placement %d: %w", version, r.err)
	}
	return p, p.Validate()
}

// placementReader reads numbers until the first error, and zeros after it.
type placementReader struct {
	left []byte
	err  error
}

func (r *placementReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// number reads a number that is at most most.
func (r *placementReader) number(what string, most int) int {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.left)
	switch {
	case n <= 0 || n > 1 && r.left[n-1] == 0: // cut off, too large, or longer than it must be
		r.fail("the number of %s, %d bytes before its end, is none", what, len(r.left))
	case v > uint64(most):
		r.fail("%d %s, the limit is %d", v, what, most)
	default:
		r.left = r.left[n:]
		return int(v)
	}
	return 0
}

// count reads how many things follow, each of which takes a byte at least.
func (r *placementReader) count(what string, most int) int {
	n := r.number(what, most)
	if n > len(r.left) {
		r.fail("%d %s in %d bytes", n, what, len(r.left))
		return 0
	}
	return n
}

// homes reads a layer that has experts.
func (r *placementReader) homes() Homes {
	homes := make(Homes, r.count("experts", MaxExperts))
	if len(homes) == 0 {
		r.fail("a layer that has experts has 0")
	}
	for e := range homes {
		homes[e] = make([]int, r.count("nodes of an expert", MaxNodes))
		before := 0
		for i := range homes[e] {
			before += r.number("nodes to the next one", MaxNodes)
			homes[e][i] = before
		}
	}
	return homes
}

// layers reads which of the different layers each layer is. Each is met first in
// its order, and all of them are.
func (r *placementReader) layers(different []Homes) []Homes {
	layers := make([]Homes, r.count("layers", MaxLayers))
	met := 0
	for l := range layers {
		i := r.number("different layers", len(different))
		if i > met+1 {
			r.fail("layer %d is different layer %d, the last before it was %d", l, i, met)
		}
		met = max(met, i)
		if i > 0 && r.err == nil {
			layers[l] = different[i-1]
		}
	}
	if met != len(different) {
		r.fail("%d of %d different layers are used", met, len(different))
	}
	return layers
}
