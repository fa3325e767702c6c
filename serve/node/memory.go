package node

import (
	"fmt"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/m2n"
)

// Posted identifies a posted message until its Sent completion arrives.
type Posted struct {
	Peer  string
	Token uint64
}

// SendBuffer is host-visible memory that a device writes and the transport reads.
type SendBuffer struct {
	Buffer kernel.Buffer
	Region *m2n.Region
}

// NewSendBuffer allocates so many bytes, a multiple of 4, and registers them with the
// endpoint.
func NewSendBuffer(dev kernel.Memory, ep *m2n.Endpoint, bytes int) (SendBuffer, error) {
	b, err := dev.Alloc(kernel.HostVisible, kernel.F32, bytes/4)
	if err != nil {
		return SendBuffer{}, err
	}
	return SendBuffer{Buffer: b, Region: ep.Register(b.Bytes(), b)}, nil
}

// FreeAll frees buffers; it skips nil ones, which were never allocated.
func FreeAll(dev kernel.Memory, buffers ...kernel.Buffer) {
	for _, b := range buffers {
		if b != nil {
			dev.Free(b)
		}
	}
}

// CodedOfSpan views a received span as rows of cols elements in a format. It does
// not copy.
func CodedOfSpan(s m2n.Span, f kernel.RowFormat, cols int) (kernel.CodedMat, error) {
	buffer, ok := s.Region.User.(kernel.Buffer)
	if !ok {
		return kernel.CodedMat{}, fmt.Errorf("%d bytes of a message do not lie in a device's memory", s.Len)
	}
	size := f.Bytes(cols)
	if s.Off%4 != 0 || s.Len%size != 0 {
		return kernel.CodedMat{}, fmt.Errorf("%d bytes at %d of a message are not rows of %d in %v", s.Len, s.Off, cols, f)
	}
	return kernel.CodedMat{Buf: buffer, Off: s.Off, Rows: s.Len / size, Cols: cols, Format: f}, nil
}

// MatOfSpan views a received span as rows of cols F32 elements.
func MatOfSpan(s m2n.Span, cols int) (kernel.Mat, error) {
	m, err := CodedOfSpan(s, kernel.RowF32, cols)
	return kernel.Mat{Buf: m.Buf, Off: m.Off / 4, Rows: m.Rows, Cols: cols, Stride: cols}, err
}
