// Package remote connects a front end with attention nodes in other processes:
// requests and cancellations go to the node, events come back, on one stream per
// node. It may not know what a request means; package cluster decides which nodes
// are members.
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
	"github.com/tandem-moe/tandem/serve/frontend"
)

// FrontEnd gives requests to nodes; see [frontend.FrontEnd].
type FrontEnd interface {
	// Attach adds a worker; detach removes it, and its requests fail with the
	// reason.
	Attach(o serve.Offer, w serve.Worker) (detach func(reason error), err error)
	// Deliver takes a worker's reports. After an error, the caller detaches the
	// worker.
	Deliver(node string, reports []serve.Report) error
}

// outbox queues items to send, so that the sender's caller never waits for the
// network. Its size is bounded indirectly: a node has a bounded number of requests,
// and a peer that does not read is soon declared lost.
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

// send passes queued items to the function send until ctx ends or send fails.
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

// flush passes the items that are queued now to send.
func (o *outbox[T]) flush(send func([]T) error) error {
	items := o.take()
	if len(items) == 0 {
		return nil
	}
	return send(items)
}

// Handler returns the path and the handler through which attention nodes offer to
// work for a front end. An offer is accepted only on a connection that proves to be
// a member's, from the attention node with that member's id and epoch, and only
// while the node is a member.
func Handler(front FrontEnd, members *cluster.Server) (string, http.Handler) {
	path, handler := tandemv1.NewWorkHandler(&work{front, members}, cluster.Options()...)
	return path, cluster.Gate(handler)
}

type work struct {
	front   FrontEnd
	members *cluster.Server
}

// worker makes a serve.Worker of a node's stream.
type worker struct {
	*outbox[*tandemv1.ServeResponse]
}

func (w worker) Submit(r serve.Request) {
	var messages []*tandemv1.ServeResponse
	for _, p := range requestPieces(requestToProto(r)) {
		messages = append(messages, &tandemv1.ServeResponse{Message: &tandemv1.ServeResponse_Submit{Submit: p}})
	}
	w.put(messages...)
}

func (w worker) Cancel(id uint64) {
	w.put(&tandemv1.ServeResponse{Message: &tandemv1.ServeResponse_Cancel{Cancel: &tandemv1.Cancel{Id: id}}})
}

// offerTimeout bounds the wait for a new stream's first message, and the wait for
// its node to be ready; sendTimeout bounds the sending of one message to a node that
// does not read.
const (
	offerTimeout = 5 * time.Second
	sendTimeout  = 10 * time.Second
)

// workStream is the front end's side of a node's stream.
type workStream = connect.BidiStream[tandemv1.ServeRequest, tandemv1.ServeResponse]

// Serve runs one node's stream until the node leaves or the stream fails.
func (s *work) Serve(whole context.Context, stream *workStream) error {
	member, leave, ok := s.members.Admit(whole)
	if !ok {
		return connect.NewError(connect.CodePermissionDenied, errors.New("the stream is of no member of the cluster"))
	}
	defer leave()
	ctx, cancel := context.WithCancelCause(whole)
	defer cancel(nil)
	offer, err := s.offer(ctx, stream, member)
	if err != nil {
		return err
	}
	if err := s.ready(ctx, member.ID); err != nil {
		return err
	}
	w := worker{newOutbox[*tandemv1.ServeResponse]()}
	detach, err := s.front.Attach(offer, w)
	if err != nil {
		return connect.NewError(connect.CodeFailedPrecondition, err)
	}
	go s.receive(stream, offer.Node, cancel)
	go s.watch(ctx, offer, cancel)
	// Detach as soon as ctx ends, even while a send is stuck.
	context.AfterFunc(ctx, func() { detach(&serve.UnavailableError{Reason: s.gone(whole, offer.Node, context.Cause(ctx))}) })
	cancel(w.send(ctx, func(items []*tandemv1.ServeResponse) error {
		for _, m := range items {
			if err := sendWithin(ctx, stream, m); err != nil {
				return err
			}
		}
		return nil
	}))
	if errors.Is(context.Cause(whole), cluster.ErrStopping) {
		return connect.NewError(connect.CodeUnavailable, cluster.ErrStopping)
	}
	return connect.NewError(connect.CodeAborted, context.Cause(ctx))
}

// sendWithin sends one message within sendTimeout. Each message has its own bound,
// since a long prompt is many messages.
func sendWithin(ctx context.Context, stream *workStream, m *tandemv1.ServeResponse) error {
	defer cluster.SendWithin(ctx, sendTimeout)()
	return stream.Send(m)
}

// gone says why a node's requests end. A refused report, the front end's own stop and
// the node's stop come first; else the reason is the cluster's for the node's
// removal, or how its connection ended, or the cause that ended its stream.
func (s *work) gone(whole context.Context, node string, cause error) string {
	reason := s.members.Gone(node)
	if reason == "" {
		reason = cluster.LostBecause(whole)
	}
	var report *frontend.ReportError
	switch {
	case errors.As(cause, &report):
		return fmt.Sprintf("attention node %s is refused: %s", node, report.Reason)
	case errors.Is(context.Cause(whole), cluster.ErrStopping):
		return cluster.ErrStopping.Error()
	case errors.Is(cause, io.EOF):
		return fmt.Sprintf("attention node %s has stopped", node)
	case reason != "":
		return fmt.Sprintf("attention node %s is lost: %s", node, reason)
	case errors.Is(cause, context.Canceled):
		return fmt.Sprintf("attention node %s is lost: it has given up its stream", node)
	}
	return fmt.Sprintf("attention node %s is lost: %v", node, cause)
}

// offer reads the offer, the stream's first message, and waits for it at most
// offerTimeout.
func (s *work) offer(ctx context.Context, stream *workStream, m cluster.Member) (serve.Offer, error) {
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
		return acceptable(f.m, m)
	case <-ctx.Done():
		return serve.Offer{}, connect.NewError(connect.CodeDeadlineExceeded, fmt.Errorf("no offer within %v", offerTimeout))
	}
}

// ready waits until a member is ready. A member that is not ready gets no requests,
// since its weights have not yet been found to be the cluster's.
func (s *work) ready(ctx context.Context, id string) error {
	late := time.NewTimer(offerTimeout)
	defer late.Stop()
	for {
		view, changed := s.members.View()
		m, ok := view.Find(id)
		if ok && m.Ready {
			return nil
		}
		if !ok {
			return connect.NewError(connect.CodeAborted, fmt.Errorf("node %s is not a member any more: %s", id, s.members.Gone(id)))
		}
		select {
		case <-changed:
		case <-late.C:
			return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("node %s offers to work and is not ready", id))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// acceptable returns the offer in a member's first message, or refuses it.
func acceptable(first *tandemv1.ServeRequest, m cluster.Member) (serve.Offer, error) {
	if first.GetOffer() == nil {
		return serve.Offer{}, connect.NewError(connect.CodeInvalidArgument, errors.New("the first message is not an offer"))
	}
	if err := tandemv1.Check(first); err != nil {
		return serve.Offer{}, connect.NewError(connect.CodeInvalidArgument, err)
	}
	o := offerFromProto(first.GetOffer())
	if m.ID != o.Node || m.Epoch != o.Epoch || m.Role != cluster.Attention {
		return serve.Offer{}, connect.NewError(connect.CodeFailedPrecondition,
			fmt.Errorf("member %s, for %s with epoch %d, offers to work as %q for attention with epoch %d", m.ID, m.Role, m.Epoch, o.Node, o.Epoch))
	}
	return o, nil
}

// receive delivers the node's reports until the stream ends. A node that sends a
// report that no correct node of this version sends is removed from the cluster.
func (s *work) receive(stream *workStream, node string, end context.CancelCauseFunc) {
	for {
		m, err := stream.Receive()
		if err != nil {
			end(err)
			return
		}
		reports, err := reportsOf(m)
		if err == nil {
			err = s.front.Deliver(node, reports)
		} else {
			err = &frontend.ReportError{Node: node, Reason: err.Error()}
		}
		if err != nil {
			end(err)
			s.members.Remove(node, "refused: "+err.Error())
			return
		}
	}
}

// watch ends the stream when its node no longer belongs to the cluster.
func (s *work) watch(ctx context.Context, o serve.Offer, end context.CancelCauseFunc) {
	for {
		view, changed := s.members.View()
		if _, ok := view.Find(o.Node); !ok {
			end(fmt.Errorf("node %s is not a member any more: %s", o.Node, s.members.Gone(o.Node)))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// Client is an attention node's side of its stream to the front end.
type Client struct {
	reports *outbox[serve.Report]
}

// NewClient returns a stream that is not open yet.
func NewClient() *Client { return &Client{reports: newOutbox[serve.Report]()} }

// Report queues reports for the front end; it does not block.
func (c *Client) Report(reports []serve.Report) { c.reports.put(reports...) }

// farewell is how long a stopping node may take to send its last reports.
const farewell = time.Second

// Run offers a worker to the front end at url, and passes on requests and reports
// until the stream fails, or until ctx has ended and the last report is sent.
func (c *Client) Run(ctx context.Context, client connect.HTTPClient, url string, o serve.Offer, w serve.Worker) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	streaming, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(farewell, cancel) })()
	stream, err := tandemv1.NewWorkClient(client, url, cluster.ClientOptions()...).Serve(streaming)
	if err != nil {
		return fmt.Errorf("offering to work for %s: %w", url, err)
	}
	defer cluster.CloseWith(streaming, stream)()
	err = stream.Send(&tandemv1.ServeRequest{Message: &tandemv1.ServeRequest_Offer{Offer: offerToProto(o)}})
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("offering to work for %s: %w", url, err)
	}
	var receiving sync.WaitGroup
	receiving.Go(func() { stop(c.receive(stream.Receive, o, w)) })
	send := func(reports []serve.Report) error {
		for _, m := range eventPieces(reports, w.Cancel) {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		return nil
	}
	stop(c.reports.send(ctx, send))
	_ = c.reports.flush(send)
	_ = stream.CloseRequest() // makes the front end end the stream
	receiving.Wait()
	return fmt.Errorf("working for %s: %w", url, cluster.EndOf(context.Cause(ctx)))
}

// receive hands the front end's requests to the worker until the stream ends, or the
// front end sends a message that no correct front end of this version sends.
func (c *Client) receive(receive func() (*tandemv1.ServeResponse, error), o serve.Offer, w serve.Worker) error {
	whole := joiner{limit: o.MaxModelLen}
	for {
		m, err := receive()
		if err != nil {
			return err
		}
		if err := c.obey(m, &whole, o, w); err != nil {
			return fmt.Errorf("the front end sent what cannot be: %w", err)
		}
	}
}

// obey does what one message asks for. A request beyond the node's limits ends with
// an error of its own; only a message that breaks the protocol is returned as one.
func (c *Client) obey(m *tandemv1.ServeResponse, whole *joiner, o serve.Offer, w serve.Worker) error {
	if err := tandemv1.Check(m); err != nil {
		return err
	}
	switch m := m.GetMessage().(type) {
	case *tandemv1.ServeResponse_Submit:
		p, err := whole.add(m.Submit)
		if err != nil || p == nil {
			return err
		}
		r := requestFromProto(p)
		if err := r.Validate(o.Limits); err != nil {
			c.Report([]serve.Report{{ID: r.ID, Err: err}})
			return nil
		}
		w.Submit(r)
	case *tandemv1.ServeResponse_Cancel:
		w.Cancel(m.Cancel.GetId())
	default:
		return errors.New("a message of no kind")
	}
	return nil
}
