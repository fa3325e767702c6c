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

// contentType is what the cluster's protocols speak: neither JSON nor gRPC, which
// need parsers that nobody here uses.
const contentType = "application/connect+proto"

// Options are those of the handlers of the cluster's protocols: messages are bounded
// and not compressed, since what they unpack to would not be.
func Options() []connect.HandlerOption {
	return []connect.HandlerOption{connect.WithReadMaxBytes(tandemv1.MaxMessage),
		connect.WithCompression("gzip", nil, nil)}
}

// ClientOptions are those of the clients of the cluster's protocols.
func ClientOptions() []connect.ClientOption {
	return []connect.ClientOption{connect.WithReadMaxBytes(tandemv1.MaxMessage),
		connect.WithAcceptCompression("gzip", nil, nil)}
}

// admission is how far the sender of a request is trusted. It is kept in the
// request's context.
type admission struct {
	frames *frames // of the request's body
	answer *http.ResponseController
	secure bool   // the sender has proved by TLS that it belongs to the cluster
	token  string // that it claims to be a member by; empty: none
}

type admissionKey struct{}

// admissionOf is a request's; nil where its handler has no gate.
func admissionOf(ctx context.Context) *admission {
	a, _ := ctx.Value(admissionKey{}).(*admission)
	return a
}

// tokenHeader carries a member's secret.
const tokenHeader = "Tandem-Member"

// Gate is the middleware of a handler of the cluster's protocols. It refuses
// requests of other protocols before it reads their bodies, and until the handler
// admits the sender as a member, no message may be longer than a hello.
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

// admit lets the sender send messages as long as members do.
func (a *admission) admit() { a.frames.limit.Store(tandemv1.MaxMessage) }

// Admit finds out which member has sent a request: by the secret that its welcome
// told it. Until leave is called, the connection is a member's.
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

// SendWithin bounds what a handler sends, until done is called: a peer that does not
// read is lost.
func SendWithin(ctx context.Context, t time.Duration) (done func()) {
	a := admissionOf(ctx)
	if a == nil {
		return func() {}
	}
	_ = a.answer.SetWriteDeadline(time.Now().Add(t))             // fails where nothing can be written
	return func() { _ = a.answer.SetWriteDeadline(time.Time{}) } // a deadline ends a stream, also one that waits
}

// memberClient sends a member's secret along.
type memberClient struct {
	connect.HTTPClient
	token string
}

func (c *memberClient) Do(r *http.Request) (*http.Response, error) {
	r.Header.Set(tokenHeader, c.token)
	return c.HTTPClient.Do(r)
}
