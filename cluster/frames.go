package cluster

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"

	"connectrpc.com/connect"
)

// frames is a stream of messages as it arrives. A message longer than the limit,
// or compressed, fails before any of it is kept.
type frames struct {
	io.ReadCloser
	limit  atomic.Int64
	header []byte // of the next message, as far as it is here
	left   int64  // of this message
	err    error
}

func newFrames(body io.ReadCloser, limit int64) *frames {
	f := &frames{ReadCloser: body}
	f.limit.Store(limit)
	return f
}

// A message follows its flags, a byte, and its length, 4 bytes.
const (
	frameLength     = 1
	frameBody       = 5
	flagsCompressed = 1
)

func (f *frames) Read(b []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.ReadCloser.Read(b)
	if f.err = f.follow(b[:n]); f.err != nil {
		return 0, f.err
	}
	return n, err
}

// follow keeps track of where messages begin.
func (f *frames) follow(b []byte) error {
	for len(b) > 0 {
		if f.left > 0 {
			n := min(f.left, int64(len(b)))
			f.left -= n
			b = b[n:]
			continue
		}
		n := min(frameBody-len(f.header), len(b))
		f.header = append(f.header, b[:n]...)
		b = b[n:]
		if len(f.header) == frameBody {
			if err := f.begin(); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin checks a message's header.
func (f *frames) begin() error {
	flags, length := f.header[0], int64(binary.BigEndian.Uint32(f.header[frameLength:]))
	f.header = f.header[:0]
	if flags&flagsCompressed != 0 {
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("a compressed message, of %d bytes", length))
	}
	if limit := f.limit.Load(); length > limit {
		return connect.NewError(connect.CodeResourceExhausted,
			fmt.Errorf("a message of %d bytes, the limit is %d", length, limit))
	}
	f.left = length
	return nil
}
