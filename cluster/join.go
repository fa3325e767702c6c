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
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-moe/tandem/internal/tandemv1"
)

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
	admissionOf(ctx).admit()
	err = s.welcome(ctx, self, stream, messages)
	s.Remove(self.ID, cmp.Or(LostBecause(ctx), reasonOf(err)))
	return err
}

// welcome tells a node who it is, with the secret that proves it to be the member,
// and keeps its stream.
func (s membership) welcome(ctx context.Context, self Member, stream *joinStream,
	messages <-chan received[tandemv1.JoinRequest]) error {
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
		return Member{}, refusal(err, admissionOf(ctx).secure)
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
	weights := judging{judge: s.Judge, proposed: s.proposed, member: self}
	beat := time.NewTicker(s.timeout / beatsPerTimeout)
	defer beat.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return ended(ctx)
		case m := <-messages:
			err = s.take(ctx, &weights, m)
		case verdict := <-weights.verdict:
			if verdict != nil {
				return rejected(self, verdict)
			}
			placement := weights.end()
			err = s.mark(func(r *Registry) error { return r.Ready(self.ID, placement, time.Now()) })
		case <-beat.C:
			err = s.send(ctx, stream,
				&tandemv1.JoinResponse{Message: &tandemv1.JoinResponse_Beat{Beat: &tandemv1.Beat{}}})
		case <-changed:
			changed, err = s.inform(ctx, self, stream)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// inform tells a node the newest view, and returns what is closed when there is a
// newer one.
func (s membership) inform(ctx context.Context, self Member, stream *joinStream) (changed <-chan struct{}, err error) {
	view, changed := s.View()
	if _, ok := view.Find(self.ID); !ok {
		return nil, connect.NewError(connect.CodeAborted,
			fmt.Errorf("node %s was removed: %s", self.ID, s.Gone(self.ID)))
	}
	return changed, s.send(ctx, stream,
		&tandemv1.JoinResponse{Message: &tandemv1.JoinResponse_View{View: viewToProto(view)}})
}

// take notes what a node's stream has brought; io.EOF: the node has left.
func (s membership) take(ctx context.Context, weights *judging, m received[tandemv1.JoinRequest]) error {
	switch {
	case errors.Is(m.err, io.EOF):
		return io.EOF
	case m.err != nil:
		return lost(m.err)
	case m.message.GetLeave() != nil:
		s.Remove(weights.member.ID, "it has left")
		return io.EOF
	}
	return s.heard(ctx, weights, m.message)
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
	case m.GetHello() != nil:
		err = errBroken(errors.New("a hello comes once"))
	case m.GetWeights() != nil:
		err = weights.add(m.GetWeights().GetPlacement(), m.GetWeights().GetDigests())
	case m.GetReady() != nil:
		err = weights.ask(ctx, m.GetReady().GetPlacement())
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
		case m.GetPlaced() != nil:
			return r.Placed(id, m.GetPlaced().GetPlacement(), time.Now())
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

// errBroken is a message from outside that no process of this version sends.
func errBroken(err error) error { return connect.NewError(connect.CodeInvalidArgument, err) }

// checkHello checks what the table of limits cannot say.
func checkHello(h *tandemv1.Hello) error {
	id := h.GetIdentity()
	for _, f := range []struct{ name, value string }{
		{"wire", h.GetWire()},
		{"combine", h.GetCombine()},
		{"version", id.GetVersion()},
		{"model", id.GetModel()},
		{"numerics", id.GetNumerics()},
	} {
		if !printable(f.value) {
			return fmt.Errorf("%s %q: it has characters that cannot be printed", f.name, f.value)
		}
	}
	return ParseAddr(h.GetAddr())
}
