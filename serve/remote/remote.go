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
	"github.com/tandem-moe/tandem/serve/frontend"
)

// FrontEnd is who gives work to nodes.
type FrontEnd interface {
	// Attach takes a worker on; detach lets it go, with the reason that its
	// requests fail with.
	Attach(o serve.Offer, w serve.Worker) (detach func(reason error), err error)
	// Deliver takes what a worker reports. After an error, the worker is let go.
	Deliver(node string, reports []serve.Report) error
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
// cluster with the epoch that it tells, and proves to be that member.
func Handler(front FrontEnd, members *cluster.Server) (string, http.Handler) {
	path, handler := tandemv1.NewWorkHandler(&work{front, members}, cluster.Options()...)
	return path, cluster.Gate(handler)
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
	var messages []*tandemv1.ServeResponse
	for _, p := range requestPieces(requestToProto(r)) {
		messages = append(messages, &tandemv1.ServeResponse{Message: &tandemv1.ServeResponse_Submit{Submit: p}})
	}
	w.put(messages...)
}

func (w worker) Cancel(id uint64) {
	w.put(&tandemv1.ServeResponse{Message: &tandemv1.ServeResponse_Cancel{Cancel: &tandemv1.Cancel{Id: id}}})
}

// offerTimeout bounds the wait for a new stream's first message, and sendTimeout
// that for a node that does not read.
const (
	offerTimeout = 5 * time.Second
	sendTimeout  = 10 * time.Second
)

// workStream is a node's stream at the front end.
type workStream = connect.BidiStream[tandemv1.ServeRequest, tandemv1.ServeResponse]

// Serve keeps one node's stream.
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
	// At once, where sending is stuck too.
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

// sendWithin sends one message. The bound is for each: a long prompt is many of them.
func sendWithin(ctx context.Context, stream *workStream, m *tandemv1.ServeResponse) error {
	defer cluster.SendWithin(ctx, sendTimeout)()
	return stream.Send(m)
}

// gone says why a node's requests end: what the cluster knows of its departure, or
// how its connection ended, or what ended its stream.
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

// offer reads the first message. A client that sends none is bounded by the
// listener's own timeouts as well.
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

// ready waits until a member is ready: until its weights have been found to be the
// cluster's, it gets no requests.
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

// acceptable is the offer in a first message of a member.
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

// receive delivers what the node reports until the stream ends, or the node reports
// what none of this version does: then it is a member no more.
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
	_ = stream.CloseRequest() // which makes the front end end the stream
	receiving.Wait()
	return fmt.Errorf("working for %s: %w", url, cluster.EndOf(context.Cause(ctx)))
}

// receive hands the front end's requests to the worker until the stream ends, or the
// front end says what none of this version does.
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

// obey does what one message asks for. A request that cannot be served ends by
// itself; the node goes on.
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
