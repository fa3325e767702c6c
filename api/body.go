package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// A body that is too large is read on for a while, and thrown away, so that a
// client that sends all before it reads anything sees the answer.
const (
	drainBytes = 256 << 20
	drainTime  = 10 * time.Second
)

// warn tells the client and the log of what is passed over.
func (s *Server) warn(w http.ResponseWriter, r *http.Request, warnings []string) {
	if len(warnings) == 0 {
		return
	}
	for _, text := range warnings {
		w.Header().Add("Warnings", text)
	}
	s.log.Limited(slog.LevelWarn, "a request has fields that change nothing", "path", r.URL.Path, "id", accessOf(w).id,
		"warnings", warnings)
}

// body reads a request's JSON, as fast as a client has to send it. It never holds
// more than the limit.
func (s *Server) body(w http.ResponseWriter, r *http.Request, lease *lease) ([]byte, error) {
	if err := checkMediaType(r.Header.Get("Content-Type")); err != nil {
		return nil, err
	}
	control := http.NewResponseController(w)
	if r.ContentLength > s.cfg.Limits.Body {
		return nil, s.tooLarge(r, control)
	}
	plain, err := unpacked(w, r.Header.Get("Content-Encoding"), s.paced(r.Body, control))
	if err != nil {
		return nil, bodyError(err)
	}
	data, err := lease.read(io.LimitReader(plain, s.cfg.Limits.Body+1))
	if err == nil && int64(len(data)) > s.cfg.Limits.Body {
		err = s.tooLarge(r, control)
	}
	if err != nil {
		return nil, bodyError(err)
	}
	_ = control.SetReadDeadline(time.Time{}) // the wait for the client's leaving has no end
	return data, s.working(w, r)
}

// working says that a request has come in whole. It is refused where as many do
// work as may.
func (s *Server) working(w http.ResponseWriter, r *http.Request) error {
	w.(*answer).body = false
	conn := connectionOf(r.Context())
	if limit := conn.workLimit(len(s.cfg.APIKeys) > 0); !conn.startWork(limit) {
		return &Error{
			Status: http.StatusTooManyRequests, Type: "rate_limit_error", Code: "rate_limit_exceeded",
			Message:    fmt.Sprintf("the server answers %d requests, as many as it may at once", limit),
			RetryAfter: time.Second,
		}
	}
	return nil
}

// paced is a body whose sender has so much time for each piece, and a request's
// time for all of it.
type paced struct {
	io.Reader
	control  *http.ResponseController
	patience time.Duration
	last     time.Time
	since    int64 // bytes
}

func (s *Server) paced(body io.Reader, control *http.ResponseController) *paced {
	return &paced{
		Reader: body, control: control, patience: s.cfg.Limits.ReadBody,
		last: time.Now().Add(s.cfg.Limits.Request),
	}
}

// Read extends the deadline where a piece has come.
func (p *paced) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if p.since += int64(n); p.since >= piece {
		p.since = 0
		due := time.Now().Add(p.patience)
		if due.After(p.last) {
			due = p.last
		}
		_ = p.control.SetReadDeadline(due) // not every writer has one: tests' do not
	}
	return n, err
}

// checkMediaType accepts JSON, and a request that does not say. (A browser does
// not send JSON to another site without asking it.)
func checkMediaType(header string) error {
	kind, _, err := mime.ParseMediaType(header)
	if header == "" || err == nil && kind == "application/json" {
		return nil
	}
	return &Error{
		Status: http.StatusUnsupportedMediaType, Type: "invalid_request_error", Code: "unsupported_media_type",
		Message: "the header Content-Type must be application/json, and is " + clipped(header),
	}
}

func (s *Server) tooLarge(r *http.Request, control *http.ResponseController) error {
	if !strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
		_ = control.SetReadDeadline(time.Now().Add(drainTime))
		_, _ = io.CopyN(io.Discard, r.Body, drainBytes)
	}
	return &Error{
		Status: http.StatusRequestEntityTooLarge, Type: "invalid_request_error", Code: "request_too_large",
		Message: "the body is larger than the limit of " + bytesText(s.cfg.Limits.Body),
	}
}

func bodyError(err error) *Error {
	var own *Error
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &timeout) && timeout.Timeout():
		return &Error{
			Status: http.StatusRequestTimeout, Type: "invalid_request_error", Code: "request_timeout",
			Message: "the body did not arrive in time",
		}
	default:
		return invalid("", "the body could not be read: %v", err)
	}
}

// budget bounds the memory of all bodies being read or held.
type budget struct {
	limit int64
	used  atomic.Int64
}

// lease is one body's share.
type lease struct {
	budget *budget
	held   int64
}

// reserved is the part of a budget that is kept for small bodies, so that large ones
// that are slow, or that wait, do not shut everybody out.
const reserved = 8

func (l *lease) take(n int64) error {
	limit := l.budget.limit
	if l.held+n > smallBody {
		limit -= limit / reserved
	}
	if l.budget.used.Add(n) > limit {
		l.budget.used.Add(-n)
		return &Error{
			Status: http.StatusTooManyRequests, Type: "rate_limit_error", Code: "rate_limit_exceeded",
			Message: "the bodies of the requests being read are larger than the limit of " +
				bytesText(l.budget.limit) + " together",
			RetryAfter: time.Second,
		}
	}
	l.held += n
	return nil
}

func (l *lease) end() {
	l.budget.used.Add(-l.held)
	l.held = 0
}

// read reads all, and pays for its buffer as that grows.
func (l *lease) read(from io.Reader) ([]byte, error) {
	const first = 4 << 10
	if err := l.take(first); err != nil {
		return nil, err
	}
	buffer := bytes.NewBuffer(make([]byte, 0, first))
	for {
		if buffer.Available() == 0 {
			size := int64(buffer.Cap())
			if err := l.take(size); err != nil {
				return nil, err
			}
			buffer.Grow(int(size))
		}
		n, err := from.Read(buffer.AvailableBuffer()[:buffer.Available()])
		buffer.Write(buffer.AvailableBuffer()[:n])
		if err == io.EOF {
			return buffer.Bytes(), nil
		}
		if err != nil {
			return nil, err
		}
	}
}
