package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/tandem-moe/tandem/internal/tandemv1"
)

// beatsPerTimeout is how many signs of life fit in the time after which a
// silent peer counts as lost: a few may be late on a busy machine.
const beatsPerTimeout = 8

// ErrStopping ends the streams of a front end that stops.
var ErrStopping = errors.New("the front end is stopping")

// MaxMessage bounds a message of the cluster's protocols.
const MaxMessage = 64 << 20

// Server admits nodes to a registry and tells them of every change.
type Server struct {
	// Judge says whether a member may be ready, by what it has loaded; nil: every
	// member may. It is set before the handler is used.
	Judge Judge

	timeout time.Duration

	mu       sync.Mutex
	registry *Registry
	changed  chan struct{} // closed at the next change
}

// NewServer serves a registry of the given cluster: see [NewRegistry].
func NewServer(id Identity, settings Settings, timeout time.Duration) *Server {
	return &Server{
		timeout:  timeout,
		registry: NewRegistry(id, settings, timeout),
		changed:  make(chan struct{}),
	}
}

// Handler returns the path and the handler of the protocol.
func (s *Server) Handler() (string, http.Handler) {
	return tandemv1.NewMembershipHandler(membership{s}, connect.WithReadMaxBytes(MaxMessage))
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

// Expel removes a member, which finds out by the end of its stream.
func (s *Server) Expel(id string) {
	_ = s.update(func(r *Registry) error {
		r.Leave(id)
		return nil
	})
}

// update changes the registry and wakes those who watch it.
func (s *Server) update(change func(*Registry) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.registry.View().Version
	err := change(s.registry)
	if s.registry.View().Version != before {
		close(s.changed)
		s.changed = make(chan struct{})
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

// read passes a stream's messages on until it ends or ctx does.
func read[T any](ctx context.Context, receive func() (*T, error)) <-chan received[T] {
	messages := make(chan received[T])
	go func() {
		for {
			m, err := receive()
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

// Join keeps one node's stream.
func (s membership) Join(ctx context.Context, stream *connect.BidiStream[tandemv1.JoinRequest, tandemv1.JoinResponse]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	messages := read(ctx, stream.Receive)
	self, err := s.admit(ctx, messages)
	if err != nil {
		return err
	}
	defer s.Expel(self.ID)
	view, changed := s.View()
	err = stream.Send(&tandemv1.JoinResponse{Message: &tandemv1.JoinResponse_Welcome{
		Welcome: &tandemv1.Welcome{Self: memberToProto(self), View: viewToProto(view)},
	}})
	if err != nil {
		return fmt.Errorf("welcoming node %s: %w", self.ID, err)
	}
	return s.keep(ctx, self, stream, messages, changed)
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
		return Member{}, first.err
	}
	hello := first.message.GetHello()
	if hello == nil {
		return Member{}, connect.NewError(connect.CodeInvalidArgument, errors.New("the first message is not a hello"))
	}
	role, err := ParseRole(hello.GetRole())
	if err != nil {
		return Member{}, connect.NewError(connect.CodeInvalidArgument, err)
	}
	var self Member
	err = s.update(func(r *Registry) error {
		var err error
		self, err = r.Join(helloFromProto(role, hello), time.Now())
		return err
	})
	var mismatch *MismatchError
	switch {
	case errors.As(err, &mismatch):
		return Member{}, connect.NewError(connect.CodeInvalidArgument, err)
	case err != nil:
		return Member{}, connect.NewError(connect.CodeResourceExhausted, err)
	}
	return self, nil
}

// keep exchanges signs of life and views until the node leaves or is lost.
func (s membership) keep(ctx context.Context, self Member, stream *connect.BidiStream[tandemv1.JoinRequest, tandemv1.JoinResponse],
	messages <-chan received[tandemv1.JoinRequest], changed <-chan struct{}) error {
	id, weights := self.ID, judging{judge: s.Judge, member: self}
	beat := time.NewTicker(s.timeout / beatsPerTimeout)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return connect.NewError(connect.CodeUnavailable, ErrStopping)
		case m := <-messages:
			if m.err != nil || m.message.GetLeave() != nil {
				return nil
			}
			err = s.heard(ctx, &weights, m.message)
		case verdict := <-weights.verdict:
			if verdict != nil {
				return refusal(self, verdict)
			}
			err = s.mark(func(r *Registry) error { return r.Ready(id, time.Now()) })
		case <-beat.C:
			err = stream.Send(&tandemv1.JoinResponse{Message: &tandemv1.JoinResponse_Beat{Beat: &tandemv1.Beat{}}})
		case <-changed:
			var view View
			view, changed = s.View()
			if _, ok := view.Find(id); !ok {
				return connect.NewError(connect.CodeAborted, fmt.Errorf("node %s was removed: it was about to stop, or nothing was heard of it for %v", id, s.timeout))
			}
			err = stream.Send(&tandemv1.JoinResponse{Message: &tandemv1.JoinResponse_View{View: viewToProto(view)}})
		}
		if err != nil {
			return err
		}
	}
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
	return s.mark(func(r *Registry) error {
		if m.GetDrain() != nil {
			return r.Drain(weights.member.ID, time.Now())
		}
		return r.Heard(weights.member.ID, time.Now())
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
