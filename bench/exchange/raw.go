//go:build linux

package exchange

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

// rawPlan is what one writes without a library: a TCP connection per pair,
// messages with a length before them, a goroutine per connection. With checksums
// CRC32C of each message goes with it and is compared.
func rawPlan(checksums bool) Plan {
	return Plan{
		Listen: func(ctx context.Context, _ int, s Shape) (Receiver, string, error) {
			return rawListen(ctx, s, checksums)
		},
		Connect: func(ctx context.Context, self int, s Shape, addrs []string) (Sender, error) {
			return rawConnect(ctx, self, s, addrs, checksums)
		},
	}
}

// rawPrefix is the length and the checksum, 4 bytes each.
const rawPrefix = 8

// handshakeTimeout bounds making a connection.
const handshakeTimeout = 20 * time.Second

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// rawEnd is one connection for each peer, and a frame for it.
type rawEnd struct {
	conns     []net.Conn
	frames    [][]byte
	checksums bool
}

func newRawEnd(peers, bytes int, checksums bool) *rawEnd {
	e := &rawEnd{conns: make([]net.Conn, peers), frames: make([][]byte, peers), checksums: checksums}
	for i := range e.frames {
		e.frames[i] = make([]byte, rawPrefix+bytes)
	}
	return e
}

func rawConnect(ctx context.Context, self int, s Shape, addrs []string, checksums bool) (*rawEnd, error) {
	e := newRawEnd(s.Receivers, s.Bytes, checksums)
	d := net.Dialer{Timeout: handshakeTimeout}
	for r, addr := range addrs {
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, errors.Join(err, e.Close())
		}
		e.conns[r] = conn
		if _, err := conn.Write(binary.LittleEndian.AppendUint32(nil, uint32(self))); err != nil {
			return nil, errors.Join(err, e.Close())
		}
	}
	return e, nil
}

// rawListen listens. Connections are accepted at the first receive, when the
// senders know the address.
func rawListen(ctx context.Context, s Shape, checksums bool) (Receiver, string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	e := newRawEnd(s.Senders, s.Bytes, checksums)
	return &rawReceiver{rawEnd: e, listener: l.(*net.TCPListener)}, l.Addr().String(), nil
}

// Rows are the bodies of the frames.
func (e *rawEnd) Rows() [][]byte {
	var rows [][]byte
	for _, f := range e.frames {
		rows = append(rows, f[rawPrefix:])
	}
	return rows
}

// Send writes the frames of all connections at once.
func (e *rawEnd) Send(_ context.Context, times int) error {
	return each(len(e.conns), func(i int) error {
		frame := e.frames[i]
		for range times {
			binary.LittleEndian.PutUint32(frame, uint32(len(frame)-rawPrefix))
			if e.checksums {
				binary.LittleEndian.PutUint32(frame[4:], crc32.Checksum(frame[rawPrefix:], castagnoli))
			}
			if _, err := e.conns[i].Write(frame); err != nil {
				return err
			}
		}
		return nil
	})
}

// each calls do for all of n peers at once, the first on the caller's goroutine.
func each(n int, do func(i int) error) error {
	var group errgroup.Group
	for i := 1; i < n; i++ {
		group.Go(func() error { return do(i) })
	}
	err := do(0)
	return errors.Join(err, group.Wait())
}

// Close closes the connections.
func (e *rawEnd) Close() error {
	var errs []error
	for _, c := range e.conns {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// rawReceiver is a rawEnd that others connect to.
type rawReceiver struct {
	*rawEnd
	listener *net.TCPListener
	accepted bool
}

// Receive reads all connections at once.
func (r *rawReceiver) Receive(_ context.Context, times int, got func(int, []byte) error) error {
	if !r.accepted {
		if err := r.accept(); err != nil {
			return err
		}
	}
	return each(len(r.conns), func(i int) error {
		for range times {
			row, err := r.read(i)
			if err == nil {
				err = got(i, row)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *rawReceiver) accept() error {
	r.accepted = true
	if err := r.listener.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	for range r.conns {
		conn, err := r.listener.Accept()
		if err != nil {
			return err
		}
		var hello [4]byte
		if _, err := io.ReadFull(conn, hello[:]); err != nil {
			return errors.Join(fmt.Errorf("hello: %w", err), conn.Close())
		}
		i := int(binary.LittleEndian.Uint32(hello[:]))
		if i >= len(r.conns) || r.conns[i] != nil {
			return errors.Join(fmt.Errorf("hello of sender %d: want another of %d", i, len(r.conns)), conn.Close())
		}
		r.conns[i] = conn
	}
	return nil
}

// read reads a message, in one call of the system where all of it is there: the
// frame is no longer than a message, so nothing of the next is read.
func (r *rawReceiver) read(i int) ([]byte, error) {
	frame := r.frames[i]
	n, err := io.ReadAtLeast(r.conns[i], frame, rawPrefix)
	if err != nil {
		return nil, err
	}
	length := int(binary.LittleEndian.Uint32(frame))
	if length != len(frame)-rawPrefix {
		return nil, fmt.Errorf("message of %d bytes, want %d", length, len(frame)-rawPrefix)
	}
	if _, err := io.ReadFull(r.conns[i], frame[n:]); err != nil {
		return nil, err
	}
	row := frame[rawPrefix:]
	if r.checksums {
		if got, want := crc32.Checksum(row, castagnoli), binary.LittleEndian.Uint32(frame[4:]); got != want {
			return nil, fmt.Errorf("checksum %#x, want %#x", got, want)
		}
	}
	return row, nil
}

// Release does nothing: the frames are used again.
func (r *rawReceiver) Release() {}

// Close closes the listener and the connections.
func (r *rawReceiver) Close() error { return errors.Join(r.listener.Close(), r.rawEnd.Close()) }
