package checkpoint

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
)

// sample is how much of each end of a tensor its identity covers.
const sample = 4 << 10

// Hash identifies the weights without reading them all: the SHA-256 over all
// tensors, sorted by name, of name, type, shape, and the first and last 4 KiB.
// It does not depend on how tensors are spread over files, and costs two pages
// of reading per tensor. Two checkpoints of different training differ in it; a
// byte changed deep inside a tensor does not show.
//
// Nodes compare it when they meet, although each loads its role's tensors only.
func (c *Checkpoint) Hash() [sha256.Size]byte {
	h := sha256.New()
	for _, name := range c.names {
		p := c.tensors[name]
		part(h, []byte(name))
		part(h, []byte(p.dtype))
		part(h, fmt.Append(nil, p.shape))
		data := p.data()
		part(h, data[:min(len(data), sample)])
		part(h, data[max(len(data)-sample, 0):])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// part adds bytes with their length, so that no two lists of parts look alike.
func part(h hash.Hash, b []byte) {
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(b))))
	h.Write(b)
}
