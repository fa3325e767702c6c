package kerneltest

import (
	"errors"
	"fmt"

	"github.com/tandem-moe/tandem/kernel"
)

// expertsOnly hides what a device can do beyond computing experts.
type expertsOnly struct{ kernel.ExpertDevice }

// ExpertsOnly returns dev as a device that has the methods of a kernel.ExpertDevice and
// no others.
func ExpertsOnly(dev kernel.ExpertDevice) kernel.ExpertDevice { return expertsOnly{dev} }

// limited is a device that lacks capabilities.
type limited struct {
	kernel.Device
	lacks kernel.Capabilities
}

// Without returns dev without some capabilities. The forms of operations that need them
// are refused as kernel.Capabilities says.
func Without(dev kernel.Device, lacks kernel.Capabilities) kernel.Device { return &limited{dev, lacks} }

// Properties are the device's with fewer capabilities.
func (l *limited) Properties() kernel.Properties {
	p := l.Device.Properties()
	p.Name = "limited " + p.Name
	p.Capabilities &^= l.lacks
	return p
}

// refuse panics if an operation is asked for a form that the device lacks.
func (l *limited) refuse(asked bool, c kernel.Capabilities) {
	if asked && l.lacks&c != 0 {
		panic(fmt.Sprintf("kerneltest: the device lacks %v", c))
	}
}

// Adopt is the device's, or unsupported.
func (l *limited) Adopt(t kernel.DType, mem []byte) (kernel.Buffer, error) {
	if l.lacks&kernel.AdoptsMemory != 0 {
		return nil, fmt.Errorf("adopt %d bytes: %w", len(mem), errors.ErrUnsupported)
	}
	return l.Device.Adopt(t, mem)
}

// GroupedLinear is the device's, or refused.
func (l *limited) GroupedLinear(dst, src kernel.Mat, w []kernel.Weight, bias []kernel.Buffer, offsets []int32) {
	l.refuse(bias != nil, kernel.GroupedBias)
	l.Device.GroupedLinear(dst, src, w, bias, offsets)
}

// SwiGLU is the device's, or refused.
func (l *limited) SwiGLU(dst, gateUp kernel.Mat, p kernel.SwiGLUParams) {
	l.refuse(p != kernel.SwiGLUParams{}, kernel.ShapedSwiGLU)
	l.Device.SwiGLU(dst, gateUp, p)
}

// RoPE is the device's, or refused.
func (l *limited) RoPE(x kernel.Mat, t kernel.Rope, p kernel.RopeParams, pos []int32) {
	l.refuse(p.Interleaved, kernel.InterleavedRope)
	l.refuse(2*t.Pairs() != p.HeadDim, kernel.PartialRope)
	l.Device.RoPE(x, t, p, pos)
}

// StoreKV is the device's, or refused.
func (l *limited) StoreKV(c kernel.KV, k, v kernel.Mat, seqs []kernel.Sequence) {
	l.refuse(c.KeyDim != c.ValueDim, kernel.ValueDims)
	l.Device.StoreKV(c, k, v, seqs)
}

// Attention is the device's, or refused.
func (l *limited) Attention(dst, q kernel.Mat, c kernel.KV, seqs []kernel.Sequence, p kernel.AttentionParams) {
	l.refuse(c.KeyDim != c.ValueDim, kernel.ValueDims)
	l.refuse(p.Window != 0, kernel.Windows)
	l.refuse(p.Sinks != nil, kernel.Sinks)
	l.Device.Attention(dst, q, c, seqs, p)
}

// TopK is the device's, or refused.
func (l *limited) TopK(ids, weights kernel.Buffer, logits kernel.Mat, p kernel.RouterParams) {
	l.refuse(p.Scores == kernel.Sigmoid, kernel.SigmoidScores)
	l.refuse(p.Bias != nil, kernel.RouterBias)
	l.refuse(p.Groups != 0, kernel.RouterGroups)
	l.Device.TopK(ids, weights, logits, p)
}
