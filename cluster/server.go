package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-moe/tandem/internal/ratelog"
	"github.com/tandem-moe/tandem/internal/tandemv1"
)

// beatsPerTimeout is how many signs of life fit in the time after which a
// silent peer counts as lost: a few may be late on a busy machine.
const beatsPerTimeout = 8

// ErrStopping ends the streams of a front end that stops: the cause of its server's
// base context's end.
var ErrStopping = errors.New("the front end is stopping")

// Server admits nodes to a registry and tells them of every change.
type Server struct {
	// Log is told who is refused and who is lost. It is set before the server is
	// used; nil: nobody is told.
	Log *slog.Logger
	// Judge says whether a member may be ready, by what it has loaded; nil: every
	// member may. It is set before the handler is used.
	Judge Judge

	timeout time.Duration
	logged  func() *ratelog.Logger

	mu       sync.Mutex
	registry *Registry
	tokens   map[[sha256.Size]byte]string // ids, by the digests of what proves them
	changed  chan struct{}                // closed at the next change
}

// NewServer serves a registry of the given cluster: see [NewRegistry].
func NewServer(id Identity, settings Settings, timeout time.Duration) *Server {
	s := &Server{
		timeout:  timeout,
		registry: NewRegistry(id, settings, timeout),
		tokens:   map[[sha256.Size]byte]string{},
		changed:  make(chan struct{}),
	}
	s.registry.Begin(time.Now())
	s.logged = sync.OnceValue(func() *ratelog.Logger { return ratelog.New(cmp.Or(s.Log, slog.New(slog.DiscardHandler))) })
	return s
}

// log is where the server tells what happens.
func (s *Server) log() *ratelog.Logger { return s.logged() }

// Handler returns the path and the handler of the protocol.
func (s *Server) Handler() (string, http.Handler) {
	path, handler := tandemv1.NewMembershipHandler(membership{s}, Options()...)
	return path, Door(handler)
}

// View returns the current snapshot and a channel that is closed when there is a
// newer one.
func (s *Server) View() (View, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registry.View(), s.changed
}

// Run removes silent members until ctx ends.
func (s *Server) Run(ctx context.Context) {
	tick := time.NewTicker(s.timeout / beatsPerTimeout)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			_ = s.update(func(r *Registry) error {
				r.Expire(now)
				return nil
			})
		}
	}
}

// Expel removes a member that is about to stop and is needed no more. It finds out
// by the end of its stream.
func (s *Server) Expel(id string) { s.Remove(id, "it was about to stop") }

// Remove removes a member for a reason, in words that follow its id. It finds out
// by the end of its stream.
func (s *Server) Remove(id, reason string) {
	_ = s.update(func(r *Registry) error {
		r.Remove(id, reason)
		return nil
	})
}

// Moved tells how far a member is, and since when.
func (s *Server) Moved(id string) (Moved, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registry.Moved(id)
}

// Gone says why a member is gone, in words that follow its id, or nothing where it
// is not, or has been for long.
func (s *Server) Gone(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registry.Gone(id)
}

// update changes the registry, wakes those who watch it, and logs who is gone.
func (s *Server) update(change func(*Registry) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.registry.View()
	err := change(s.registry)
	if s.registry.view.Version == before.Version {
		return err
	}
	close(s.changed)
	s.changed = make(chan struct{})
	for _, m := range before.Members {
		if _, ok := s.registry.view.Find(m.ID); !ok {
			s.log().Info("member gone", "node", m.ID, "reason", s.registry.Gone(m.ID))
		}
	}
	return err
}

// membership is the protocol's side of a Server.
type membership struct{ *Server }

// received is what a stream's reader hands over.
type received[T any] struct {
	message *T
	err     error
}

// read passes a stream's messages on, those within their limits, until it ends or
// ctx does.
func read[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, receive func() (*T, error)) <-chan received[T] {
	messages := make(chan received[T])
	go func() {
		for {
			m, err := receive()
			if err == nil {
				err = tandemv1.Check(P(m))
			}
			select {
			case messages <- received[T]{m, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return messages
}

// joinStream is a node's stream at the front end.
type joinStream = connect.BidiStream[tandemv1.JoinRequest, tandemv1.JoinResponse]

// Join keeps one node's stream.
func (s membership) Join(whole context.Context, stream *joinStream) error {
	ctx, cancel := context.WithCancel(whole)
	defer cancel()
	messages := read(ctx, stream.Receive)
	self, err := s.admit(ctx, messages)
	if err != nil {
		return err
	}
	defer joined(ctx)()
	doorOf(ctx).admit()
	err = s.welcome(ctx, self, stream, messages)
	s.Remove(self.ID, cmp.Or(LostBecause(ctx), reasonOf(err)))
	return err
}

// welcome tells a node who it is, with the secret that proves it to be the member,
// and keeps its stream.
func (s membership) welcome(ctx context.Context, self Member, stream *joinStream, messages <-chan received[tandemv1.JoinRequest]) error {
	token := rand.Text()
	digest := sha256.Sum256([]byte(token))
	s.mu.Lock()
	s.tokens[digest] = self.ID
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.tokens, digest)
	}()
	view, changed := s.View()
	err := s.send(ctx, stream, &tandemv1.JoinResponse{Message: &tandemv1.JoinResponse_Welcome{
		Welcome: &tandemv1.Welcome{Self: memberToProto(self), View: viewToProto(view), Token: token},
	}})
	if err != nil {
		return fmt.Errorf("welcoming node %s: %w", self.ID, err)
	}
	return s.keep(ctx, self, stream, messages, changed)
}

// send tells a node something. A node that does not read for the timeout is lost.
func (s membership) send(ctx context.Context, stream *joinStream, m *tandemv1.JoinResponse) error {
	defer SendWithin(ctx, s.timeout)()
	return stream.Send(m)
}

// admit reads the hello and joins the node to the registry.
func (s membership) admit(ctx context.Context, messages <-chan received[tandemv1.JoinRequest]) (Member, error) {
	timeout := time.NewTimer(s.timeout)
	defer timeout.Stop()
	var first received[tandemv1.JoinRequest]
	select {
	case first = <-messages:
	case <-timeout.C:
		return Member{}, connect.NewError(connect.CodeDeadlineExceeded, fmt.Errorf("no hello within %v", s.timeout))
	case <-ctx.Done():
		return Member{}, ctx.Err()
	}
	if first.err != nil {
		return Member{}, lost(first.err)
	}
	hello := first.message.GetHello()
	if hello == nil {
		return Member{}, connect.NewError(connect.CodeInvalidArgument, errors.New("the first message is not a hello"))
	}
	self, err := s.register(hello)
	if err != nil {
		s.log().Limited(slog.LevelWarn, "node refused", "address", hello.GetAddr(), "reason", Quoted(err))
		return Member{}, refusal(err, doorOf(ctx).secure)
	}
	return self, nil
}

// register makes the node that a hello describes a member.
func (s membership) register(hello *tandemv1.Hello) (self Member, err error) {
	role, err := ParseRole(hello.GetRole())
	if err != nil {
		return Member{}, errBroken(err)
	}
	if err := checkHello(hello); err != nil {
		return Member{}, errBroken(err)
	}
	err = s.update(func(r *Registry) (err error) {
		self, err = r.Join(helloFromProto(role, hello), time.Now())
		return err
	})
	return self, err
}

// errDiffers is all that a stranger hears: what the cluster's values are is not its
// business.
var errDiffers = errors.New("refused: the node differs from the cluster; the front end's log says in what")

// refusal is what a node hears. Who has proved by TLS to belong to the cluster hears
// both values.
func refusal(err error, secure bool) error {
	var mismatch *MismatchError
	var coded *connect.Error
	switch {
	case errors.As(err, &mismatch) && secure:
		return connect.NewError(connect.CodeInvalidArgument, err)
	case errors.As(err, &mismatch):
		return connect.NewError(connect.CodeInvalidArgument, errDiffers)
	case errors.As(err, &coded):
		return err
	}
	return connect.NewError(connect.CodeResourceExhausted, err)
}

// keep exchanges signs of life and views until the node leaves or is lost.
func (s membership) keep(ctx context.Context, self Member, stream *joinStream,
	messages <-chan received[tandemv1.JoinRequest], changed <-chan struct{}) error {
	id, weights := self.ID, judging{judge: s.Judge, member: self}
	beat := time.NewTicker(s.timeout / beatsPerTimeout)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ended(ctx)
		case m := <-messages:
			if errors.Is(m.err, io.EOF) {
				return nil
			}
			if m.err != nil {
				return lost(m.err)
			}
			if m.message.GetLeave() != nil {
				s.Remove(id, "it has left")
				return nil
			}
			err = s.heard(ctx, &weights, m.message)
		case verdict := <-weights.verdict:
			if verdict != nil {
				return rejected(self, verdict)
			}
			err = s.mark(func(r *Registry) error { return r.Ready(id, time.Now()) })
		case <-beat.C:
			err = s.send(ctx, stream, &tandemv1.JoinResponse{Message: &tandemv1.JoinResponse_Beat{Beat: &tandemv1.Beat{}}})
		case <-changed:
			var view View
			view, changed = s.View()
			if _, ok := view.Find(id); !ok {
				return connect.NewError(connect.CodeAborted, fmt.Errorf("node %s was removed: %s", id, s.Gone(id)))
			}
			err = s.send(ctx, stream, &tandemv1.JoinResponse{Message: &tandemv1.JoinResponse_View{View: viewToProto(view)}})
		}
		if err != nil {
			return err
		}
	}
}

// ended is the end of a stream by its context: the front end stops, or the node is
// gone, and hears nothing.
func ended(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), ErrStopping) {
		return connect.NewError(connect.CodeUnavailable, ErrStopping)
	}
	return nil
}

// lost is the end of a stream that its node has not announced, as the node hears it.
func lost(err error) error {
	var limit *tandemv1.LimitError
	if errors.As(err, &limit) {
		return errBroken(err)
	}
	return err
}

// reasonOf is why a member's stream has ended, in words that follow its id.
func reasonOf(err error) string {
	switch {
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, context.Canceled):
		return "its stream has ended" // the connection says more
	case errors.Is(err, ErrStopping):
		return ErrStopping.Error()
	}
	return Quoted(err).Error()
}

// heard notes what a member said. It is ready once its weights are judged.
func (s membership) heard(ctx context.Context, weights *judging, m *tandemv1.JoinRequest) error {
	var err error
	switch {
	case m.GetWeights() != nil:
		err = weights.add(m.GetWeights().GetDigests())
	case m.GetReady() != nil:
		err = weights.ask(ctx)
	}
	if err != nil {
		return err
	}
	id := weights.member.ID
	return s.mark(func(r *Registry) error {
		switch {
		case m.GetDrain() != nil:
			return r.Drain(id, time.Now())
		case m.GetBeat() != nil:
			return r.Progress(id, progressFromProto(m.GetBeat()), time.Now())
		case m.GetReach() != nil:
			return r.Reach(id, unreachedFromProto(m.GetReach().GetUnreached()), time.Now())
		}
		return r.Heard(id, time.Now())
	})
}

// mark changes the registry for a member; where it is none anymore, its stream
// ends.
func (s membership) mark(change func(*Registry) error) error {
	if err := s.update(change); err != nil {
		return connect.NewError(connect.CodeAborted, err)
	}
	return nil
}
