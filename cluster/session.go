package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/tandem-moe/tandem/internal/tandemv1"
)

// Protocols returns the protocols of a front end's listener: HTTP/1 for clients of the
// API, and HTTP/2 for nodes, with or without TLS.
func Protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

// NewHTTPClient returns a client that speaks HTTP/2, which the streams between nodes
// and front end need; without TLS where config is nil. timeout bounds making a
// connection; a connection that is silent for timeout gets a ping, and is closed after
// another timeout without an answer.
//
// All streams of a client share one connection. A node makes a new client for each
// session: the earlier session's connection may be half open, and then everything sent
// on it is lost, until the operating system gives up after a quarter of an hour.
func NewHTTPClient(timeout time.Duration, config *tls.Config) *http.Client {
	dialer := &net.Dialer{Timeout: timeout}
	t := &http.Transport{
		DialContext:     dialer.DialContext,
		Protocols:       new(http.Protocols),
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13}, TLSHandshakeTimeout: timeout,
		HTTP2:           &http.HTTP2Config{SendPingTimeout: timeout, PingTimeout: timeout},
		IdleConnTimeout: idleTimeout,
	}
	if config == nil {
		t.Protocols.SetUnencryptedHTTP2(true)
	} else {
		t.Protocols.SetHTTP2(true)
		t.TLSClientConfig = config.Clone()
	}
	return &http.Client{Transport: t}
}

// idleTimeout is how long a connection stays open after its last session.
const idleTimeout = 30 * time.Second

// Session is the node's side of a membership, from its welcome until it leaves or one
// side is lost.
type Session struct {
	// Self is the node as the cluster knows it.
	Self Member

	timeout  time.Duration
	client   connect.HTTPClient // sends the member's secret with each request
	progress atomic.Pointer[func() Progress]
	cancel   context.CancelFunc
	ended    chan struct{}  // closed at the end of the stream
	owned    sync.WaitGroup // the session's goroutines

	sending sync.Mutex
	stream  *connect.BidiStreamForClientSimple[tandemv1.JoinRequest, tandemv1.JoinResponse]

	mu   sync.Mutex
	view *View         // the newest view
	err  error         // what ended the session
	news chan struct{} // has one element while Next has not returned view or err
}

// Join asks the front end at url to admit a node. The session ends with ctx. An error
// says why the front end refused the node or could not be reached.
func Join(ctx context.Context, client connect.HTTPClient, url string, h Hello, timeout time.Duration) (*Session,
	error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &Session{timeout: timeout, cancel: cancel, ended: make(chan struct{}), news: make(chan struct{}, 1)}
	messages, err := s.join(ctx, client, url, h)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("joining %s: %w", url, Quoted(otherwiseSecured(err)))
	}
	s.owned.Go(func() { s.beat(ctx) })
	s.owned.Go(func() {
		defer cancel() // ends a send that waits for a front end that is lost
		s.listen(ctx, messages)
	})
	return s, nil
}

func (s *Session) join(ctx context.Context, client connect.HTTPClient, url string,
	h Hello) (<-chan received[tandemv1.JoinResponse], error) {
	var err error
	s.stream, err = tandemv1.NewMembershipClient(client, url, ClientOptions()...).Join(ctx)
	if err != nil {
		return nil, err
	}
	CloseWith(ctx, s.stream)
	err = s.send(&tandemv1.JoinRequest{Message: &tandemv1.JoinRequest_Hello{Hello: helloToProto(h)}})
	// A refusal makes send fail with io.EOF; the reason is in what the stream receives.
	messages := read(ctx, s.stream.Receive)
	m, receiveErr := s.receive(ctx, messages)
	if receiveErr != nil {
		return nil, receiveErr
	}
	if err != nil {
		return nil, err
	}
	welcome := m.GetWelcome()
	if welcome == nil {
		return nil, errors.New("the first message is not a welcome")
	}
	if err := checkWelcome(welcome, h); err != nil {
		return nil, err
	}
	s.Self = memberFromProto(welcome.GetSelf())
	s.client = &memberClient{client, welcome.GetToken()}
	s.set(viewFromProto(welcome.GetView()), nil)
	return messages, nil
}

// CloseWith closes a client's stream when ctx ends, unless stop has been called. Without
// it, net/http notices the end of ctx only when there is something to send, and not at
// all while a message waits for a peer that does not read.
func CloseWith(ctx context.Context, stream interface {
	CloseRequest() error
	CloseResponse() error
}) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		_ = stream.CloseRequest()
		_ = stream.CloseResponse()
	})
}

// checkWelcome checks what the table of limits of package tandemv1 cannot express.
func checkWelcome(w *tandemv1.Welcome, h Hello) error {
	switch {
	case w.GetView() == nil:
		return errors.New("the welcome has no view")
	case w.GetSelf().GetRole() != string(h.Role):
		return fmt.Errorf("the welcome is for %q, the node is for %q", w.GetSelf().GetRole(), h.Role)
	case w.GetToken() == "":
		return errors.New("the welcome has no token")
	}
	v := viewFromProto(w.GetView())
	if err := checkView(v); err != nil {
		return err
	}
	if place := w.GetSelf().GetPlace(); h.Role == Expert && int(place) >= v.ExpertNodes {
		return fmt.Errorf("the welcome gives place %d of %d", place, v.ExpertNodes)
	}
	return nil
}

// checkView checks what the table of limits of package tandemv1 cannot express: no id is
// there twice, the members of a role are in the order of their places, no place twice,
// and the next placement is newer than the current one.
func checkView(v View) error {
	if v.Next.Version != 0 && v.Next.Version <= v.Placement.Version {
		return fmt.Errorf("the view has placement %d follow placement %d", v.Next.Version, v.Placement.Version)
	}
	ids := map[string]bool{}
	last := map[Role]int{Attention: -1, Expert: -1}
	for _, m := range v.Members {
		switch {
		case ids[m.ID]:
			return fmt.Errorf("the view has %q twice", m.ID)
		case m.Role != Attention && m.Role != Expert:
			return fmt.Errorf("the view has %q for %q", m.ID, m.Role)
		case m.Place <= last[m.Role] || m.Role == Expert && m.Place >= v.ExpertNodes:
			return fmt.Errorf("the view has %q at place %d of %d after place %d", m.ID, m.Place, v.ExpertNodes,
				last[m.Role])
		}
		ids[m.ID], last[m.Role] = true, m.Place
	}
	return nil
}

// lostError says that the front end is lost, and how its connection ended.
type lostError struct {
	error
	how string
}

func (e *lostError) Error() string { return "the front end is lost: its connection " + e.how }

func (e *lostError) Unwrap() error { return e.error }

// EndOf is the error that ended a stream with the front end: a loss in words about its
// connection, other errors made safe for a terminal.
func EndOf(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &lostError{err, "ended without a farewell"}
	case errors.Is(err, syscall.ECONNRESET):
		return &lostError{err, "was reset"}
	}
	return Quoted(err)
}

// Client returns a client whose requests prove to come from the member.
func (s *Session) Client() connect.HTTPClient { return s.client }

// Tell makes each beat carry the node's progress. The function is called from another
// goroutine.
func (s *Session) Tell(progress func() Progress) { s.progress.Store(&progress) }

// Ready says that the node's weights are loaded and their digests are sent. placement is
// the version that an expert node's weights are for; an attention node's is 0.
func (s *Session) Ready(placement uint64) error {
	ready := &tandemv1.JoinRequest_Ready{Ready: &tandemv1.Ready{Placement: placement}}
	return s.send(&tandemv1.JoinRequest{Message: ready})
}

// Placed says that no step of this attention node uses a placement before a version, and
// that no later step will.
func (s *Session) Placed(placement uint64) error {
	placed := &tandemv1.JoinRequest_Placed{Placed: &tandemv1.Placed{Placement: placement}}
	return s.send(&tandemv1.JoinRequest{Message: placed})
}

// Drain says that the node is about to stop. The front end admits no new request that
// needs the node, and ends the session once no request does.
func (s *Session) Drain() error {
	return s.send(&tandemv1.JoinRequest{Message: &tandemv1.JoinRequest_Drain{Drain: &tandemv1.Drain{}}})
}

// Reach says which expert nodes this attention node cannot reach, and why; none means
// that it is connected with all of them.
func (s *Session) Reach(failing []Unreached) error {
	reach := &tandemv1.Reach{Unreached: unreachedToProto(failing)}
	return s.send(&tandemv1.JoinRequest{Message: &tandemv1.JoinRequest_Reach{Reach: reach}})
}

// Next waits for a view that it has not yet returned, and returns the newest one. Its
// error is the one that ended the session: the front end is lost, or has removed the
// node.
func (s *Session) Next(ctx context.Context) (View, error) {
	select {
	case <-s.news:
	case <-ctx.Done():
		return View{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		s.wake() // so that every later call returns the error too
		return View{}, s.err
	}
	v := *s.view
	return v, nil
}

// over says whether the session has ended.
func (s *Session) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

// farewell is how long Close may take to tell the front end.
const farewell = time.Second

// Close leaves the cluster, and tells the front end if the session has not ended.
func (s *Session) Close() {
	defer s.owned.Wait()
	defer s.cancel()
	if s.over() {
		return
	}
	defer time.AfterFunc(farewell, s.cancel).Stop() // bounds the send and the wait
	_ = s.send(&tandemv1.JoinRequest{Message: &tandemv1.JoinRequest_Leave{Leave: &tandemv1.Leave{}}})
	<-s.ended // to cancel before the front end has read Leave would look like a loss
}

// set keeps the newest view, or the error that ended the session, for Next.
func (s *Session) set(v View, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view, s.err = &v, err
	s.wake()
}

// wake wakes Next.
func (s *Session) wake() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// listen keeps the front end's newest view until the session ends.
func (s *Session) listen(ctx context.Context, messages <-chan received[tandemv1.JoinResponse]) {
	defer close(s.ended)
	for {
		m, err := s.receive(ctx, messages)
		if err != nil {
			s.set(View{}, EndOf(err))
			return
		}
		if m.GetView() == nil {
			continue
		}
		v := viewFromProto(m.GetView())
		if err := checkView(v); err != nil {
			s.set(View{}, fmt.Errorf("the front end sent what cannot be: %w", err))
			return
		}
		s.set(v, nil)
	}
}

// receive waits for a message, for at most the timeout of a silent peer.
func (s *Session) receive(ctx context.Context, messages <-chan received[tandemv1.JoinResponse]) (*tandemv1.JoinResponse,
	error) {
	timeout := time.NewTimer(s.timeout)
	defer timeout.Stop()
	select {
	case m := <-messages:
		return m.message, m.err
	case <-timeout.C:
		return nil, fmt.Errorf("nothing heard of the front end for %v", s.timeout)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Session) send(m *tandemv1.JoinRequest) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.stream.Send(m)
}

// beat sends a beat several times per timeout, until ctx or the stream ends.
func (s *Session) beat(ctx context.Context) {
	tick := time.NewTicker(s.timeout / beatsPerTimeout)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.send(&tandemv1.JoinRequest{Message: &tandemv1.JoinRequest_Beat{Beat: s.newBeat()}}) != nil {
			return
		}
	}
}

// newBeat makes a beat with the node's progress.
func (s *Session) newBeat() *tandemv1.Beat {
	if progress := s.progress.Load(); progress != nil {
		return progressToProto((*progress)())
	}
	return &tandemv1.Beat{}
}
