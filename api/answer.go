package api

import (
	"errors"
	"net/http"
	"runtime/debug"
	"time"
)

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := &answer{ResponseWriter: w, control: http.NewResponseController(w), patience: s.cfg.Limits.Write}
	// Both deadlines hold for what net/http does by itself as well: it reads on
	// where a handler has not read the whole body.
	_ = a.control.SetReadDeadline(time.Now().Add(s.cfg.Limits.ReadBody)) // not every writer has one: tests' do not
	a.expect(s.cfg.Limits.ReadBody + s.cfg.Limits.Write)
	defer func() {
		if p := recover(); p != nil {
			s.panicked(a, r, p)
		}
	}()
	s.mux.ServeHTTP(a, r)
}

// panicked answers a request that broke an invariant of ours; where its answer
// has begun, the connection closes.
func (s *Server) panicked(a *answer, r *http.Request, p any) {
	err, _ := p.(error)
	abort := errors.Is(err, http.ErrAbortHandler)
	if !abort {
		s.cfg.Log.Error("panic", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
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
}

// piece is what a client has patience's time to read, in bytes.
const piece = 64 << 10

// expect says that the client reads something within d.
func (a *answer) expect(d time.Duration) {
	_ = a.control.SetWriteDeadline(time.Now().Add(d)) // not every writer has one: tests' do not
}

func (a *answer) WriteHeader(status int) {
	a.begun = true
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	a.begun = true
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
