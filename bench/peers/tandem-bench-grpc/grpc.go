package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tandem-moe/tandem/bench/exchange"
)

// grpcStyle is how a program uses gRPC streaming: a client's stream per pair, each
// on a connection of its own. Plainly, rows are a field of type bytes, and options
// are the defaults but for the limit of a message's size.
type grpcStyle struct{ tuned bool }

func (g grpcStyle) plan() exchange.Plan { return exchange.Plan{Listen: g.listen, Connect: g.connect} }

func (g grpcStyle) dialOptions(s exchange.Shape) []grpc.DialOption {
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	limits := []grpc.CallOption{grpc.MaxCallSendMsgSize(grpcLimit(s)), grpc.MaxCallRecvMsgSize(grpcLimit(s))}
	if g.tuned {
		limits = append(limits, grpc.ForceCodecV2(rowCodec{}))
		options = append(options,
			grpc.WithInitialWindowSize(grpcWindow(s.Bytes)), grpc.WithInitialConnWindowSize(grpcWindow(s.Bytes)),
			grpc.WithReadBufferSize(grpcBuffer), grpc.WithWriteBufferSize(grpcBuffer), grpc.WithIdleTimeout(0))
	}
	return append(options, grpc.WithDefaultCallOptions(limits...))
}

func (g grpcStyle) serverOptions(s exchange.Shape) []grpc.ServerOption {
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(grpcLimit(s)), grpc.MaxSendMsgSize(grpcLimit(s))}
	if g.tuned {
		options = append(options, grpc.ForceServerCodecV2(rowCodec{}),
			grpc.InitialWindowSize(grpcWindow(s.Bytes)), grpc.InitialConnWindowSize(grpcWindow(s.Bytes)),
			grpc.ReadBufferSize(grpcBuffer), grpc.WriteBufferSize(grpcBuffer))
	}
	return options
}

// grpcLimit is that of a message: a row, and what encodes a field of it.
func grpcLimit(s exchange.Shape) int { return s.Bytes + 16 }

// message is what is sent of a row.
func (g grpcStyle) message(row []byte) any {
	if g.tuned {
		return row
	}
	return wrapperspb.Bytes(row)
}

// receive takes a row from a stream: into memory that is there, or where gRPC puts
// it.
func (g grpcStyle) receive(stream grpcStream, row []byte) ([]byte, error) {
	if g.tuned {
		return row, stream.RecvMsg(row)
	}
	var m wrapperspb.BytesValue
	err := stream.RecvMsg(&m)
	return m.GetValue(), err
}

const (
	grpcService = "tandem.bench.Exchange"
	grpcMethod  = "/" + grpcService + "/Rows"
	grpcSender  = "sender" // the key of its number in a stream's metadata
	// grpcBuffer is that of writes and reads. At 256 KB the default, 32 KB, takes
	// 1.3 times as long; larger ones gain nothing.
	grpcBuffer = 512 << 10
)

// grpcWindow is flow control's: room for a few messages.
func grpcWindow(bytes int) int32 { return int32(min(max(4*bytes, 1<<20), 1<<30)) }

func grpcStreamDesc() grpc.StreamDesc {
	return grpc.StreamDesc{StreamName: "Rows", ClientStreams: true, ServerStreams: true, Handler: func(srv any, stream grpc.ServerStream) error {
		return srv.(*grpcReceiver).serve(stream)
	}}
}

// rowCodec moves bytes as they are: the sender's without a copy, and with the
// one into the receiver's row that a field of type bytes costs.
type rowCodec struct{}

// Marshal hands the caller's bytes over.
func (rowCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

// Unmarshal copies into the caller's row, whose length it must have.
func (rowCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if row := v.([]byte); data.CopyTo(row) != len(row) || data.Len() != len(row) {
		return fmt.Errorf("message of %d bytes, want %d", data.Len(), len(row))
	}
	return nil
}

// Name goes with each message.
func (rowCodec) Name() string { return "rows" }

// handshakeTimeout bounds making a connection, and stopping a server.
const handshakeTimeout = 20 * time.Second

// each calls do for all of n peers at once, the first on the caller's goroutine.
func each(n int, do func(i int) error) error {
	var group errgroup.Group
	for i := 1; i < n; i++ {
		group.Go(func() error { return do(i) })
	}
	err := do(0)
	return errors.Join(err, group.Wait())
}

// grpcEnd is a row for each peer, and streams that move them.
type grpcEnd struct {
	style   grpcStyle
	buffers [][]byte
	streams []grpcStream
}

// grpcStream is what client's and server's streams share.
type grpcStream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

func (g grpcStyle) newEnd(peers, bytes int) grpcEnd {
	e := grpcEnd{style: g, buffers: make([][]byte, peers), streams: make([]grpcStream, peers)}
	for i := range e.buffers {
		e.buffers[i] = make([]byte, bytes)
	}
	return e
}

// grpcClient sends.
type grpcClient struct {
	grpcEnd
	conns  []*grpc.ClientConn
	cancel context.CancelFunc
}

func (g grpcStyle) connect(ctx context.Context, self int, s exchange.Shape, addrs []string) (exchange.Sender, error) {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, grpcSender, strconv.Itoa(self)))
	c := &grpcClient{grpcEnd: g.newEnd(s.Receivers, s.Bytes), cancel: cancel}
	for r, addr := range addrs {
		conn, err := grpc.NewClient("passthrough:///"+addr, g.dialOptions(s)...)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.conns = append(c.conns, conn)
		desc := grpcStreamDesc()
		if c.streams[r], err = conn.NewStream(ctx, &desc, grpcMethod); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// Rows are the buffers.
func (c *grpcClient) Rows() [][]byte { return c.buffers }

// Send gives the messages to the streams, and the core to the goroutines that
// write them, as a program would that waits for an answer now. Going on to spin
// in the barrier doubled the time of small messages.
func (c *grpcClient) Send(_ context.Context, times int) error {
	err := each(len(c.streams), func(i int) error {
		for range times {
			if err := c.streams[i].SendMsg(c.style.message(c.buffers[i])); err != nil {
				return err
			}
		}
		return nil
	})
	runtime.Gosched()
	return err
}

// Close ends the streams and their connections.
func (c *grpcClient) Close() error {
	c.cancel()
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// grpcReceiver is a server. Its handlers hand their streams over and wait.
type grpcReceiver struct {
	grpcEnd
	server  *grpc.Server
	served  chan error
	arrived chan arrivedStream
	open    int // streams that are there
}

type arrivedStream struct {
	sender int
	stream grpc.ServerStream
}

func (g grpcStyle) listen(ctx context.Context, _ int, s exchange.Shape) (exchange.Receiver, string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	r := &grpcReceiver{grpcEnd: g.newEnd(s.Senders, s.Bytes), served: make(chan error, 1), arrived: make(chan arrivedStream, s.Senders)}
	r.server = grpc.NewServer(g.serverOptions(s)...)
	r.server.RegisterService(&grpc.ServiceDesc{ServiceName: grpcService, HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{grpcStreamDesc()}}, r)
	go func() { r.served <- r.server.Serve(l) }()
	return r, l.Addr().String(), nil
}

// serve is the handler of a stream.
func (r *grpcReceiver) serve(stream grpc.ServerStream) error {
	meta, _ := metadata.FromIncomingContext(stream.Context())
	names := append(meta.Get(grpcSender), "")
	i, err := strconv.Atoi(names[0])
	if err != nil || i < 0 || i >= len(r.streams) {
		return fmt.Errorf("stream of sender %q: want one of %d", names[0], len(r.streams))
	}
	r.arrived <- arrivedStream{i, stream}
	<-stream.Context().Done()
	return nil
}

// accept waits until all senders have a stream.
func (r *grpcReceiver) accept(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	for ; r.open < len(r.streams); r.open++ {
		select {
		case a := <-r.arrived:
			r.streams[a.sender] = a.stream
		case err := <-r.served:
			return fmt.Errorf("serve: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("%d of %d streams within %v: %w", r.open, len(r.streams), handshakeTimeout, ctx.Err())
		}
	}
	return nil
}

// Receive waits for all streams first.
func (r *grpcReceiver) Receive(ctx context.Context, times int, got func(int, []byte) error) error {
	if err := r.accept(ctx); err != nil {
		return err
	}
	return each(len(r.streams), func(i int) error {
		for range times {
			row, err := r.style.receive(r.streams[i], r.buffers[i])
			if err != nil {
				return err
			}
			if err := got(i, row); err != nil {
				return err
			}
		}
		return nil
	})
}

// Release does nothing: rows are overwritten, or the collector's.
func (r *grpcReceiver) Release() {}

// Close stops the server.
func (r *grpcReceiver) Close() error {
	r.server.Stop()
	select {
	case err := <-r.served:
		return err
	case <-time.After(handshakeTimeout):
		return fmt.Errorf("the server did not stop within %v", handshakeTimeout)
	}
}
