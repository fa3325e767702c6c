// Package remote owns the way between a front end and attention nodes in other
// processes: requests and cancellations there, events back, one stream per
// node. It may not know what a request means, or who belongs to the cluster.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/internal/tandemv1"
	"github.com/tandem-moe/tandem/serve"
)

// FrontEnd is who gives work to nodes.
type FrontEnd interface {
	// Attach takes a worker on; detach lets it go, with the reason that its
	// requests fail with.
	Attach(o serve.Offer, w serve.Worker) (detach func(reason error), err error)
	// Deliver takes what a worker reports.
	Deliver(node string, reports []serve.Report)
}

// outbox holds what is to be sent, so that nobody who has something to say waits
// for a network. What bounds it is the number of requests that a node has, and
// the time after which a silent peer is lost.
type outbox[T any] struct {
	mu    sync.Mutex
	items []T
	news  chan struct{}
}

func newOutbox[T any]() *outbox[T] { return &outbox[T]{news: make(chan struct{}, 1)} }

func (o *outbox[T]) put(items ...T) {
	o.mu.Lock()
	o.items = append(o.items, items...)
	o.mu.Unlock()
	select {
	case o.news <- struct{}{}:
	default:
	}
}

func (o *outbox[T]) take() []T {
	o.mu.Lock()
	defer o.mu.Unlock()
	items := o.items
	o.items = nil
	return items
}

// send passes what is put in on until ctx ends or the stream fails.
func (o *outbox[T]) send(ctx context.Context, send func([]T) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-o.news:
		}
		if err := o.flush(send); err != nil {
			return err
		}
	}
}

// flush passes on what there is.
func (o *outbox[T]) flush(send func([]T) error) error {
	items := o.take()
	if len(items) == 0 {
		return nil
	}
	return send(items)
}

// Handler returns the path and the handler by which attention nodes offer to
// work for a front end. A node's offer counts while it is a member of the
// cluster with the epoch that it tells.
func Handler(front FrontEnd, members *cluster.Server) (string, http.Handler) {
	return tandemv1.NewWorkHandler(&work{front, members}, connect.WithReadMaxBytes(tandemv1.MaxMessage))
}

type work struct {
	front   FrontEnd
	members *cluster.Server
}

// worker is a node's stream as a serve.Worker.
type worker struct {
	*outbox[*tandemv1.ServeResponse]
}

func (w worker) Submit(r serve.Request) {
	w.put(&tandemv1.ServeResponse{Message: &tandemv1.ServeResponse_Submit{Submit: requestToProto(r)}})
}

func (w worker) Cancel(id uint64) {
	w.put(&tandemv1.ServeResponse{Message: &tandemv1.ServeResponse_Cancel{Cancel: &tandemv1.Cancel{Id: id}}})
}

// offerTimeout bounds the wait for a new stream's first message.
const offerTimeout = 5 * time.Second

// Serve keeps one node's stream.
func (s *work) Serve(whole context.Context, stream *connect.BidiStream[tandemv1.ServeRequest, tandemv1.ServeResponse]) error {
	ctx, cancel := context.WithCancelCause(whole)
	defer cancel(nil)
	offer, err := s.offer(ctx, stream)
	if err != nil {
		return err
	}
	w := worker{newOutbox[*tandemv1.ServeResponse]()}
	detach, err := s.front.Attach(offer, w)
	if err != nil {
		return connect.NewError(connect.CodeFailedPrecondition, err)
	}
	go s.receive(stream, offer.Node, cancel)
	go s.watch(ctx, offer, cancel)
	// At once, where sending is stuck too.
	context.AfterFunc(ctx, func() { detach(&serve.UnavailableError{Reason: gone(offer.Node, context.Cause(ctx))}) })
	cancel(w.send(ctx, func(items []*tandemv1.ServeResponse) error {
		for _, m := range items {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		return nil
	}))
	if whole.Err() != nil { // or the node is gone, and hears nothing
		return connect.NewError(connect.CodeUnavailable, cluster.ErrStopping)
	}
	return connect.NewError(connect.CodeAborted, context.Cause(ctx))
}

// gone says why a node's requests end.
func gone(node string, cause error) string {
	if errors.Is(cause, io.EOF) {
		return fmt.Sprintf("attention node %s has stopped", node)
	}
	return fmt.Sprintf("attention node %s is lost: %v", node, cause)
}

// offer reads the first message. A client that sends none is bounded by the
// listener's own timeouts as well.
func (s *work) offer(ctx context.Context, stream *connect.BidiStream[tandemv1.ServeRequest, tandemv1.ServeResponse]) (serve.Offer, error) {
	type first struct {
		m   *tandemv1.ServeRequest
		err error
	}
	got := make(chan first, 1)
	go func() {
		m, err := stream.Receive()
		got <- first{m, err}
	}()
	ctx, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	select {
	case f := <-got:
		if f.err != nil {
			return serve.Offer{}, f.err
		}
		if f.m.GetOffer() == nil {
			return serve.Offer{}, connect.NewError(connect.CodeInvalidArgument, errors.New("the first message is not an offer"))
		}
		o := offerFromProto(f.m.GetOffer())
		view, _ := s.members.View()
		if err := belongs(view, o); err != nil {
			return serve.Offer{}, connect.NewError(connect.CodeFailedPrecondition, err)
		}
		return o, nil
	case <-ctx.Done():
		return serve.Offer{}, connect.NewError(connect.CodeDeadlineExceeded, fmt.Errorf("no offer within %v", offerTimeout))
	}
}

// belongs checks that the node of an offer is a member, and the same incarnation.
func belongs(v cluster.View, o serve.Offer) error {
	m, ok := v.Find(o.Node)
	if !ok {
		return fmt.Errorf("node %q is not a member", o.Node)
	}
	if m.Epoch != o.Epoch || m.Role != cluster.Attention {
		return fmt.Errorf("node %s is a member for %s with epoch %d, the offer is for attention with epoch %d", o.Node, m.Role, m.Epoch, o.Epoch)
	}
	return nil
}

// receive delivers what the node reports until the stream ends.
func (s *work) receive(stream *connect.BidiStream[tandemv1.ServeRequest, tandemv1.ServeResponse], node string, end context.CancelCauseFunc) {
	for {
		m, err := stream.Receive()
		if err != nil {
			end(err)
			return
		}
		var reports []serve.Report
		for _, e := range m.GetEvents().GetEvents() {
			reports = append(reports, reportFromProto(e))
		}
		s.front.Deliver(node, reports)
	}
}

// watch ends the stream when its node no longer belongs to the cluster.
func (s *work) watch(ctx context.Context, o serve.Offer, end context.CancelCauseFunc) {
	for {
		view, changed := s.members.View()
		if err := belongs(view, o); err != nil {
			end(err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// Client is an attention node's stream to the front end.
type Client struct {
	reports *outbox[serve.Report]
}

// NewClient returns a stream that is not open yet.
func NewClient() *Client { return &Client{reports: newOutbox[serve.Report]()} }

// Report queues what the node has to say; it does not block.
func (c *Client) Report(reports []serve.Report) { c.reports.put(reports...) }

// farewell bounds what remains to be said when the node stops.
const farewell = time.Second

// Run offers a worker to the front end at url, and passes requests and reports
// on until the stream fails, or until ctx ends and the last report is through.
func (c *Client) Run(ctx context.Context, client connect.HTTPClient, url string, o serve.Offer, w serve.Worker) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	streaming, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(farewell, cancel) })()
	stream, err := tandemv1.NewWorkClient(client, url, connect.WithReadMaxBytes(tandemv1.MaxMessage)).Serve(streaming)
	if err != nil {
		return fmt.Errorf("offering to work for %s: %w", url, err)
	}
	// Without this, HTTP/2 notices the end of the context only when there is
	// something to send.
	defer context.AfterFunc(streaming, func() { _ = stream.CloseRequest() })()
	err = stream.Send(&tandemv1.ServeRequest{Message: &tandemv1.ServeRequest_Offer{Offer: offerToProto(o)}})
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("offering to work for %s: %w", url, err)
	}
	var receiving sync.WaitGroup
	receiving.Go(func() { stop(c.receive(stream.Receive, w)) })
	send := func(reports []serve.Report) error { return stream.Send(eventsToProto(reports)) }
	stop(c.reports.send(ctx, send))
	_ = c.reports.flush(send)
	_ = stream.CloseRequest() // which makes the front end end the stream
	receiving.Wait()
	return fmt.Errorf("working for %s: %w", url, context.Cause(ctx))
}

// receive hands the front end's requests to the worker until the stream ends.
func (c *Client) receive(receive func() (*tandemv1.ServeResponse, error), w serve.Worker) error {
	for {
		m, err := receive()
		if err != nil {
			return err
		}
		switch m := m.GetMessage().(type) {
		case *tandemv1.ServeResponse_Submit:
			w.Submit(requestFromProto(m.Submit))
		case *tandemv1.ServeResponse_Cancel:
			w.Cancel(m.Cancel.GetId())
		}
	}
}
