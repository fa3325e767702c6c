//go:build linux

package exchange

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
)

// grpcPlan is gRPC streaming: a client's stream per pair, each on a connection
// of its own, windows and limits beyond a message.
func grpcPlan() plan {
	return plan{listen: grpcListen, connect: grpcConnect}
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

func (rowCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rowCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if row := v.([]byte); data.CopyTo(row) != len(row) || data.Len() != len(row) {
		return fmt.Errorf("message of %d bytes, want %d", data.Len(), len(row))
	}
	return nil
}

func (rowCodec) Name() string { return "rows" }

// grpcEnd is a row for each peer, and streams that move them.
type grpcEnd struct {
	buffers [][]byte
	streams []grpcStream
}

// grpcStream is what client's and server's streams share.
type grpcStream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

func newGRPCEnd(peers, bytes int) grpcEnd {
	e := grpcEnd{buffers: make([][]byte, peers), streams: make([]grpcStream, peers)}
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

func grpcConnect(ctx context.Context, self int, s Shape, addrs []string) (sender, error) {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, grpcSender, strconv.Itoa(self)))
	c := &grpcClient{grpcEnd: newGRPCEnd(s.Receivers, s.Bytes), cancel: cancel}
	for r, addr := range addrs {
		conn, err := grpc.NewClient("passthrough:///"+addr,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithInitialWindowSize(grpcWindow(s.Bytes)), grpc.WithInitialConnWindowSize(grpcWindow(s.Bytes)),
			grpc.WithReadBufferSize(grpcBuffer), grpc.WithWriteBufferSize(grpcBuffer),
			grpc.WithIdleTimeout(0),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rowCodec{}), grpc.MaxCallSendMsgSize(s.Bytes), grpc.MaxCallRecvMsgSize(s.Bytes)))
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		c.conns = append(c.conns, conn)
		desc := grpcStreamDesc()
		if c.streams[r], err = conn.NewStream(ctx, &desc, grpcMethod); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

func (c *grpcClient) rows() [][]byte { return c.buffers }

// send gives the messages to the streams, and the core to the goroutines that
// write them, as a program would that waits for an answer now. Going on to spin
// in the barrier doubled the time of small messages.
func (c *grpcClient) send(_ context.Context, times int) error {
	err := each(len(c.streams), func(i int) error {
		for range times {
			if err := c.streams[i].SendMsg(c.buffers[i]); err != nil {
				return err
			}
		}
		return nil
	})
	runtime.Gosched()
	return err
}

func (c *grpcClient) close() error {
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

func grpcListen(ctx context.Context, _ int, s Shape) (receiver, string, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	r := &grpcReceiver{grpcEnd: newGRPCEnd(s.Senders, s.Bytes), served: make(chan error, 1), arrived: make(chan arrivedStream, s.Senders)}
	r.server = grpc.NewServer(
		grpc.ForceServerCodecV2(rowCodec{}), grpc.MaxRecvMsgSize(s.Bytes), grpc.MaxSendMsgSize(s.Bytes),
		grpc.InitialWindowSize(grpcWindow(s.Bytes)), grpc.InitialConnWindowSize(grpcWindow(s.Bytes)),
		grpc.ReadBufferSize(grpcBuffer), grpc.WriteBufferSize(grpcBuffer))
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

func (r *grpcReceiver) receive(ctx context.Context, times int, got func(int, []byte) error) error {
	if err := r.accept(ctx); err != nil {
		return err
	}
	return each(len(r.streams), func(i int) error {
		for range times {
			if err := r.streams[i].RecvMsg(r.buffers[i]); err != nil {
				return err
			}
			if err := got(i, r.buffers[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *grpcReceiver) release() {}

func (r *grpcReceiver) close() error {
	r.server.Stop()
	select {
	case err := <-r.served:
		return err
	case <-time.After(handshakeTimeout):
		return fmt.Errorf("the server did not stop within %v", handshakeTimeout)
	}
}
