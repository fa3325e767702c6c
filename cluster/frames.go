package cluster

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"

	"connectrpc.com/connect"
)

// frames follows the messages in a request's body while it is read. Reading fails at
// the header of a message that is compressed or longer than the limit, before any of
// the message is kept.
type frames struct {
	io.ReadCloser
	limit  atomic.Int64
	header []byte // the part of the next message's header that has been read
	left   int64  // how many bytes of the current message are still to come
	err    error
}

func newFrames(body io.ReadCloser, limit int64) *frames {
	f := &frames{ReadCloser: body}
	f.limit.Store(limit)
	return f
}

// A message's header has its flags, 1 byte, and its length, 4 bytes.
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
