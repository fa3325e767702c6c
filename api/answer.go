package api

import (
	"errors"
	"io"
	"math"
	"net/http"
	"runtime/debug"
	"strings"
	"time"
)

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := &answer{
		ResponseWriter: w, control: http.NewResponseController(w), patience: s.cfg.Limits.Write,
		body: r.ContentLength != 0, access: access{began: time.Now()},
	}
	if !a.body {
		connectionOf(r.Context()).startWork(math.MaxInt)
	}
	// Both deadlines hold for what net/http does by itself as well: it reads on
	// where a handler has not read the whole body.
	_ = a.control.SetReadDeadline(time.Now().Add(s.cfg.Limits.ReadBody)) // not every writer has one: tests' do not
	a.expect(s.cfg.Limits.ReadBody + s.cfg.Limits.Write)
	defer s.note(a, r)
	defer func() {
		if p := recover(); p != nil {
			s.panicked(a, r, p)
		}
	}()
	a.called(s.requestID(r))
	if !s.preflight(a, r) {
		s.mux.ServeHTTP(a, r)
	}
	s.drainBody(a, r)
}

// drainBody gives a client that still sends its body a moment to read the answer: one
// that sends all before it reads anything would see a connection that breaks.
// net/http by itself would wait for the body for as long as bodies may take.
func (s *Server) drainBody(a *answer, r *http.Request) {
	if !a.body {
		return
	}
	_ = a.control.Flush()                                           // the answer to a client that has gone
	_ = a.control.SetReadDeadline(time.Now().Add(unwantedBodyTime)) // not every writer has one: tests' do not
	if !strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
		_, _ = io.CopyN(io.Discard, r.Body, s.cfg.Limits.Body)
	}
}

// unwantedBodyTime is how long a body that nobody wants is read on.
const unwantedBodyTime = time.Second

// panicked answers a request that broke an invariant of ours; where its answer
// has begun, the connection closes.
func (s *Server) panicked(a *answer, r *http.Request, p any) {
	err, _ := p.(error)
	abort := errors.Is(err, http.ErrAbortHandler)
	if !abort {
		s.cfg.Log.Error("panic", "path", r.URL.Path, "id", a.id, "panic", p, "stack", string(debug.Stack()))
	}
	if a.begun || abort {
		panic(http.ErrAbortHandler)
	}
	writeError(a, &Error{Status: http.StatusInternalServerError, Type: "server_error", Message: "internal error"})
}

// answer is a ResponseWriter that knows whether it has been used, and that gives
// up on a client that does not read.
type answer struct {
	http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
	begun    bool
	// body says that the request has a body, which has not been read to its end.
	body bool
	access
}

// called names the request, for its client and the log.
func (a *answer) called(id string) {
	a.id = id
	a.Header().Set("X-Request-Id", id)
}

// piece is what a client has patience's time to read, in bytes.
const piece = 64 << 10

// expect says that the client reads something within d.
func (a *answer) expect(d time.Duration) {
	_ = a.control.SetWriteDeadline(time.Now().Add(d)) // not every writer has one: tests' do not
}

// WriteHeader closes the connection behind an answer to a stranger, or to one whose
// body has not come: what follows on it cannot be a request.
func (a *answer) WriteHeader(status int) {
	a.begun, a.status = true, status
	if a.body || status == http.StatusUnauthorized {
		a.Header().Set("Connection", "close")
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if !a.begun {
		a.WriteHeader(http.StatusOK) // as net/http does
	}
	written := 0
	for {
		a.expect(a.patience)
		n, err := a.ResponseWriter.Write(b[:min(piece, len(b))])
		written += n
		b = b[n:]
		if err != nil || len(b) == 0 {
			return written, err
		}
	}
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
