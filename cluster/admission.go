package cluster

import (
	"context"
	"crypto/sha256"
	"mime"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/tandem-moe/tandem/internal/tandemv1"
)

// contentType is the only content type of the cluster's protocols. JSON and gRPC would
// open more parsers to strangers, and no node uses them.
const contentType = "application/connect+proto"

// Options returns the options of the handlers of the cluster's protocols. Messages are
// bounded, and not compressed: the bound would not hold for what they unpack to.
func Options() []connect.HandlerOption {
	return []connect.HandlerOption{connect.WithReadMaxBytes(tandemv1.MaxMessage),
		connect.WithCompression("gzip", nil, nil)}
}

// ClientOptions returns the options of the clients of the cluster's protocols.
func ClientOptions() []connect.ClientOption {
	return []connect.ClientOption{connect.WithReadMaxBytes(tandemv1.MaxMessage),
		connect.WithAcceptCompression("gzip", nil, nil)}
}

// admission says how far the sender of a request is trusted. It is in the request's
// context.
type admission struct {
	frames *frames // the request's body
	answer *http.ResponseController
	secure bool   // the sender has proved by TLS that it belongs to the cluster
	token  string // the secret with which it claims to be a member; may be empty
}

type admissionKey struct{}

// admissionOf returns a request's admission; nil where its handler has no [Gate].
func admissionOf(ctx context.Context) *admission {
	a, _ := ctx.Value(admissionKey{}).(*admission)
	return a
}

// tokenHeader carries a member's secret.
const tokenHeader = "Tandem-Member"

// Gate is the middleware of a handler of the cluster's protocols. It refuses requests
// of other protocols before it reads their bodies. Until the handler admits the sender
// as a member, no message may be longer than the limit for a hello.
func Gate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || kind != contentType || r.ProtoMajor < 2 {
			http.Error(w, "This is the port at which nodes of a Tandem cluster join. Clients use the API's.", http.StatusUnsupportedMediaType)
			return
		}
		a := &admission{frames: newFrames(r.Body, tandemv1.MaxHello), answer: http.NewResponseController(w),
			secure: r.TLS != nil, token: r.Header.Get(tokenHeader)}
		r = r.WithContext(context.WithValue(r.Context(), admissionKey{}, a))
		r.Body = a.frames
		next.ServeHTTP(w, r)
	})
}

// admit raises the limit of the sender's messages to that of members.
func (a *admission) admit() { a.frames.limit.Store(tandemv1.MaxMessage) }

// Admit returns the member that has sent a request, by the secret that it got with its
// welcome. Until leave is called, the connection counts as a member's.
func (s *Server) Admit(ctx context.Context) (m Member, leave func(), ok bool) {
	a := admissionOf(ctx)
	if a == nil || a.token == "" {
		return Member{}, nil, false
	}
	s.mu.Lock()
	m, ok = s.registry.view.Find(s.tokens[sha256.Sum256([]byte(a.token))])
	s.mu.Unlock()
	if !ok {
		return Member{}, nil, false
	}
	a.admit()
	return m, joined(ctx), true
}

// SendWithin gives a handler the time t to send something, until done is called: the
// stream of a peer that does not read fails.
func SendWithin(ctx context.Context, t time.Duration) (done func()) {
	a := admissionOf(ctx)
	if a == nil {
		return func() {}
	}
	_ = a.answer.SetWriteDeadline(time.Now().Add(t)) // an error here means that writing fails too
	// A deadline left in place would end the stream even while nothing is sent.
	return func() { _ = a.answer.SetWriteDeadline(time.Time{}) }
}

// memberClient adds a member's secret to each request.
type memberClient struct {
	connect.HTTPClient
	token string
}

func (c *memberClient) Do(r *http.Request) (*http.Response, error) {
	r.Header.Set(tokenHeader, c.token)
	return c.HTTPClient.Do(r)
}
