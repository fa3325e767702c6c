package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sync/atomic"
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
	return []connect.HandlerOption{connect.WithReadMaxBytes(tandemv1.MaxMessage), connect.WithCompression("gzip", nil, nil)}
}

// ClientOptions are those of the clients of the cluster's protocols.
func ClientOptions() []connect.ClientOption {
	return []connect.ClientOption{connect.WithReadMaxBytes(tandemv1.MaxMessage), connect.WithAcceptCompression("gzip", nil, nil)}
}

// door is what a request has passed to reach a handler of the cluster's protocols.
type door struct {
	frames *frames
	answer *http.ResponseController
	secure bool
	token  string
}

type doorKey struct{}

func doorOf(ctx context.Context) *door {
	d, _ := ctx.Value(doorKey{}).(*door)
	return d
}

// tokenHeader carries a member's secret.
const tokenHeader = "Tandem-Member"

// Door stands before a handler of the cluster's protocols. What it does not know is
// refused before it is read, and until the handler calls Admit, no message is
// longer than a hello.
func Door(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || kind != contentType || r.ProtoMajor < 2 {
			http.Error(w, "This is the port at which nodes of a Tandem cluster join. Clients use the API's.", http.StatusUnsupportedMediaType)
			return
		}
		d := &door{frames: newFrames(r.Body, tandemv1.MaxHello), answer: http.NewResponseController(w), secure: r.TLS != nil, token: r.Header.Get(tokenHeader)}
		r = r.WithContext(context.WithValue(r.Context(), doorKey{}, d))
		r.Body = d.frames
		next.ServeHTTP(w, r)
	})
}

// admit lets messages of any kind through.
func (d *door) admit() { d.frames.limit.Store(tandemv1.MaxMessage) }

// Admit finds out which member has sent a request: by the secret that its welcome
// told it. Until leave is called, the connection is a member's.
func (s *Server) Admit(ctx context.Context) (m Member, leave func(), ok bool) {
	d := doorOf(ctx)
	if d == nil || d.token == "" {
		return Member{}, nil, false
	}
	s.mu.Lock()
	m, ok = s.registry.view.Find(s.tokens[sha256.Sum256([]byte(d.token))])
	s.mu.Unlock()
	if !ok {
		return Member{}, nil, false
	}
	d.admit()
	return m, joined(ctx), true
}

// SendWithin bounds what a handler sends, until done is called: a peer that does not
// read is lost.
func SendWithin(ctx context.Context, t time.Duration) (done func()) {
	d := doorOf(ctx)
	if d == nil {
		return func() {}
	}
	_ = d.answer.SetWriteDeadline(time.Now().Add(t))             // fails where nothing can be written
	return func() { _ = d.answer.SetWriteDeadline(time.Time{}) } // a deadline ends a stream, also one that waits
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

// frames is a stream of messages as it arrives. A message longer than the limit,
// or compressed, fails before any of it is kept.
type frames struct {
	io.ReadCloser
	limit  atomic.Int64
	header []byte // of the next message, as far as it is here
	left   int64  // of this message
	err    error
}

func newFrames(body io.ReadCloser, limit int64) *frames {
	f := &frames{ReadCloser: body}
	f.limit.Store(limit)
	return f
}

// A message follows its flags, a byte, and its length, 4 bytes.
const (
	frameLength     = 1
	frameBody       = 5
	flagsCompressed = 1
)

func (f *frames) Read(b []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.ReadCloser.Read(b)
	if f.err = f.follow(b[:n]); f.err != nil {
		return 0, f.err
	}
	return n, err
}

// follow keeps track of where messages begin.
func (f *frames) follow(b []byte) error {
	for len(b) > 0 {
		if f.left > 0 {
			n := min(f.left, int64(len(b)))
			f.left -= n
			b = b[n:]
			continue
		}
		n := min(frameBody-len(f.header), len(b))
		f.header = append(f.header, b[:n]...)
		b = b[n:]
		if len(f.header) == frameBody {
			if err := f.begin(); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin checks a message's header.
func (f *frames) begin() error {
	flags, length := f.header[0], int64(binary.BigEndian.Uint32(f.header[frameLength:]))
	f.header = f.header[:0]
	if flags&flagsCompressed != 0 {
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("a compressed message, of %d bytes", length))
	}
	if limit := f.limit.Load(); length > limit {
		return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("a message of %d bytes, the limit is %d", length, limit))
	}
	f.left = length
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
