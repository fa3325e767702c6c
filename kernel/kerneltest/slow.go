package kerneltest

import (
	"math/rand/v2"
	"time"

	"github.com/tandem-moe/tandem/kernel"
)

// slow is a device of another speed.
type slow struct {
	kernel.Device
	most time.Duration
}

// NewSlow returns dev with attention and grouped products that take longer, each by a
// random time of up to most. Code that works only with the timing of one device fails
// on it.
func NewSlow(dev kernel.Device, most time.Duration) kernel.Device { return &slow{dev, most} }

// Properties are the device's under another name.
func (s *slow) Properties() kernel.Properties {
	p := s.Device.Properties()
	p.Name = "slow " + p.Name
	return p
}

func (s *slow) pause() { time.Sleep(rand.N(s.most)) }

// Attention is the device's, later.
func (s *slow) Attention(dst, q kernel.Mat, c kernel.KV, seqs []kernel.Sequence, p kernel.AttentionParams) {
	s.pause()
	s.Device.Attention(dst, q, c, seqs, p)
}

// GroupedLinear is the device's, later.
func (s *slow) GroupedLinear(dst, src kernel.Mat, w []kernel.Weight, bias []kernel.Buffer, offsets []int32) {
	s.pause()
	s.Device.GroupedLinear(dst, src, w, bias, offsets)
}
