package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tandem-moe/tandem/internal/ratelog"
	"github.com/tandem-moe/tandem/model"
	"github.com/tandem-moe/tandem/serve/completion"
)

// Template renders a conversation to the text that the model continues.
type Template interface {
	// Render returns an error for a conversation that the template refuses. One that
	// is an *Error is the answer.
	Render(context.Context, TemplateInput) (string, error)
}

// TemplateInput are a template's variables. JSON values have their fields in the
// client's order.
type TemplateInput struct {
	// Messages is a list of objects whose "content" is a string, or a list of objects
	// with "type": "text" and a "text".
	Messages Raw
	// Tools is a list of objects, and Kwargs an object of further variables; nil:
	// none.
	Tools, Kwargs       Raw
	AddGenerationPrompt bool
	// ContinueFinalMessage asks for the text up to the end of the last message.
	ContinueFinalMessage bool
}

// Config is what a server is made of.
type Config struct {
	// Models are the names under which the model is served; the first is its
	// own.
	Models []string
	// Created is when the model was made or loaded.
	Created time.Time
	// Fingerprint names what an answer depends on beside the request: weights and
	// numerics. It is asked for with every answer, as a front end knows only once
	// its nodes have loaded them. Nil or empty: it is left out.
	Fingerprint func() string
	// Version is Tandem's.
	Version string
	// Service completes prompts.
	Service *completion.Service
	// Template renders chats. Nil: the model has none, and chat is refused.
	Template Template
	// MapDeveloper renders the role developer as system, for a template that
	// does not know it.
	MapDeveloper bool
	// Defaults are the checkpoint's own, for what a request does not say. As
	// with vLLM, they stand in for OpenAI's.
	Defaults model.GenerationDefaults
	// Ready returns why requests cannot be served now, nil where they can. Nil:
	// always.
	Ready func() error
	// Failing says what does not work although requests are served, or nothing: /health
	// tells it. Nil: nothing.
	Failing func() string
	// Metrics serves /metrics. Nil: there is none.
	Metrics http.Handler
	// APIKeys are accepted as bearer tokens; none: no key is needed.
	APIKeys []string

	// Strict refuses fields that nobody knows. Else they are ignored, as vLLM does
	// it, and named in the header "warnings" and in the log.
	Strict bool

	// AllowOrigins are the origins ("https://example.com") whose pages may use the
	// server; Anywhere is all of them. Nil: Anywhere where no key is needed, else
	// none.
	AllowOrigins []string

	Limits Limits

	// NoAccessLog leaves out a line for each request.
	NoAccessLog bool
	// Log gets what an operator should see. Nil: nothing.
	Log *slog.Logger
	// Now and NewID are the clock and the source of request ids. Nil: the
	// machine's clock, and random ids.
	Now   func() time.Time
	NewID func() string
}

// Limits bound what clients can make a server hold. A zero is replaced by the
// default that its comment names.
type Limits struct {
	// Body is the largest request body, in bytes: 8 MiB.
	Body int64
	// Bodies is the sum over all requests being read, rendered and tokenized, in
	// bytes: 256 MiB. A request beyond it is answered with 429.
	Bodies int64
	// Request is the longest that a request may take: 10 minutes.
	Request time.Duration
	// Header is how long a client may take to send a request's header: 10 s.
	// ReadBody is how long it may take for each 64 KiB of the body: 20 s.
	Header, ReadBody time.Duration
	// Render is how long a chat template may take for a conversation: 10 s.
	Render time.Duration
	// Write is how long a client may take to read 64 KiB of an answer: 30 s.
	Write time.Duration
	// Silence is how long a stream says nothing before it says that the client is to
	// wait: 15 s.
	Silence time.Duration
	// Idle is how long a connection may wait for its next request: 2 minutes.
	Idle time.Duration
	// Connections is how many requests may do work at once, each on a connection of
	// its own: 4096, or half of the files that the process may open. There are a
	// few more for what is answered at once, and for clients with a key. Where all
	// are taken, a new one takes the place of the idlest.
	Connections int
	// Stops is how many stop strings a request may have: 64.
	Stops int
	// Grace is how long running requests may take once the server is told to
	// stop: 30 s.
	Grace time.Duration
}

func (l *Limits) fill() {
	for _, d := range []struct {
		into     *time.Duration
		standard time.Duration
	}{
		{&l.Request, 10 * time.Minute}, {&l.Header, 10 * time.Second}, {&l.ReadBody, 20 * time.Second},
		{&l.Render, 10 * time.Second}, {&l.Write, 30 * time.Second}, {&l.Silence, 15 * time.Second},
		{&l.Idle, 2 * time.Minute}, {&l.Grace, 30 * time.Second},
	} {
		if *d.into == 0 {
			*d.into = d.standard
		}
	}
	if l.Body == 0 {
		l.Body = 8 << 20
	}
	if l.Bodies == 0 {
		l.Bodies = 256 << 20
	}
	if l.Connections == 0 {
		l.Connections = min(4096, max(1, openFiles()/2))
	}
}

// Server answers HTTP requests. It is an http.Handler.
type Server struct {
	cfg       Config
	mux       *http.ServeMux
	gate      *gate
	bodies    *budget
	log       *ratelog.Logger // cfg.Log
	preparing *limiter
	// origins are those whose pages may use the server.
	origins []string
	keys    [][sha256.Size]byte // digests of cfg.APIKeys
}

// NewServer makes a server.
func NewServer(cfg Config) *Server {
	cfg.Limits.fill()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.NewID == nil {
		cfg.NewID = newID
	}
	if cfg.Failing == nil {
		cfg.Failing = func() string { return "" }
	}
	if cfg.Ready == nil {
		cfg.Ready = func() error { return nil }
	}
	s := &Server{
		cfg: cfg, mux: http.NewServeMux(), gate: newGate(), log: ratelog.New(cfg.Log),
		bodies: &budget{limit: cfg.Limits.Bodies}, preparing: newLimiter(cfg.Limits.Body),
		keys: digests(cfg.APIKeys), origins: cfg.origins(),
	}
	s.routes()
	return s
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// handler answers a request, or returns the error to answer it with; after the
// first byte of an answer it returns nil.
type handler func(http.ResponseWriter, *http.Request) error

func (s *Server) routes() {
	s.handle("POST", "/v1/completions", s.guarded(s.completions))
	s.handle("POST", "/v1/chat/completions", s.guarded(s.chat))
	s.handle("POST", "/tokenize", s.guarded(s.tokenize))
	s.handle("POST", "/detokenize", s.guarded(s.detokenize))
	s.handle("GET", "/v1/models", s.authorised(s.models))
	s.handle("GET", "/v1/models/{id...}", s.authorised(s.modelByName))
	s.handle("GET", "/{$}", s.root)
	s.handle("GET", "/health", s.health)
	s.handle("GET", "/version", s.version)
	if s.cfg.Metrics != nil {
		s.handle("GET", "/metrics", func(w http.ResponseWriter, r *http.Request) error {
			s.cfg.Metrics.ServeHTTP(w, r)
			return nil
		})
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &Error{
			Status: http.StatusNotFound, Type: "invalid_request_error", Code: "not_found",
			Message: "there is no " + clipped(r.URL.Path) + " here: " + s.instead(r.URL.Path),
		})
	})
}

// instead is where to look in place of a path that is not there: a base URL without
// /v1, or a slash at its end, is the commonest mistake.
func (s *Server) instead(path string) string {
	path = strings.TrimRight(path, "/")
	for _, known := range []string{path, "/v1" + path, path + "s"} {
		if _, pattern := s.mux.Handler(&http.Request{Method: http.MethodGet,
			URL: &url.URL{Path: known}}); pattern == known {
			return "did you mean " + known + "? Clients want a base URL that ends in /v1"
		}
	}
	return "/ says what there is"
}

// handle answers a path, and other methods than its own with 405.
func (s *Server) handle(method, path string, h handler) {
	s.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method && (method != "GET" || r.Method != "HEAD") {
			w.Header().Set("Allow", method)
			writeError(w, &Error{
				Status: http.StatusMethodNotAllowed, Type: "invalid_request_error", Code: "method_not_allowed",
				Message: r.URL.Path + " takes " + method + ", not " + r.Method,
			})
			return
		}
		if err := h(w, r); err != nil {
			s.fail(w, r, err)
		}
	})
}

// fail answers with an error.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := asError(err)
	accessOf(w).failed = e.Message
	if e.Status >= 500 {
		s.cfg.Log.Warn("request failed", "path", r.URL.Path, "id", accessOf(w).id, "status", e.Status, "error", err)
	}
	writeError(w, e)
}

// authorised asks for an API key where the server has any.
func (s *Server) authorised(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if len(s.cfg.APIKeys) > 0 && !s.knownKey(r.Header.Get("Authorization")) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			return &Error{
				Status: http.StatusUnauthorized, Type: "invalid_request_error", Code: "invalid_api_key",
				Message: "a valid API key is needed, as the header Authorization: Bearer KEY",
			}
		}
		return h(w, r)
	}
}

// knownKey compares digests, in a time that tells neither how much of a key is
// right nor how long it is.
func (s *Server) knownKey(header string) bool {
	scheme, key, _ := strings.Cut(header, " ")
	key = strings.TrimSpace(key)
	sent, known := sha256.Sum256([]byte(key)), 0
	for i := range s.keys {
		known |= subtle.ConstantTimeCompare(s.keys[i][:], sent[:])
	}
	return known == 1 && key != "" && strings.EqualFold(scheme, "Bearer")
}

// digests are those of keys.
func digests(keys []string) [][sha256.Size]byte {
	all := make([][sha256.Size]byte, len(keys))
	for i, k := range keys {
		all[i] = sha256.Sum256([]byte(strings.TrimSpace(k)))
	}
	return all
}

// guarded adds to authorised what routes that do work need: they are refused
// while the server drains or is not ready, and end in time.
func (s *Server) guarded(h handler) handler {
	return s.authorised(func(w http.ResponseWriter, r *http.Request) error {
		if !s.gate.enter() {
			w.Header().Set("Connection", "close")
			return notReady("the server is shutting down")
		}
		defer s.gate.leave()
		if err := s.cfg.Ready(); err != nil {
			return notReady(err.Error())
		}
		ctx, cancel := context.WithTimeout(r.Context(), s.cfg.Limits.Request)
		defer cancel()
		return h(w, r.WithContext(ctx))
	})
}

// checkModel refuses a model that is not served here. An empty name is the
// server's own model, as vLLM has it.
func (s *Server) checkModel(name string) error {
	if name == "" || slices.Contains(s.cfg.Models, name) {
		return nil
	}
	e := noModel(name)
	e.Message += "; served: " + strings.Join(s.cfg.Models, ", ")
	return e
}

func noModel(name string) *Error {
	return &Error{
		Status: http.StatusNotFound, Type: "invalid_request_error", Param: "model", Code: "model_not_found",
		Message: "the model `" + clipped(name) + "` does not exist here",
	}
}

// modelName is what an answer says.
func (s *Server) modelName(asked string) string {
	if asked == "" {
		return s.cfg.Models[0]
	}
	return asked
}

// requestID is the client's, where it can stand in a header and a log, or a new one.
func (s *Server) requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); validID(id) {
		return id
	}
	return s.cfg.NewID()
}

func (s *Server) envelope(w http.ResponseWriter, prefix, object string, asked *Sampling) envelope {
	a := w.(*answer)
	if asked.RequestID != "" {
		a.called(asked.RequestID)
	}
	return envelope{
		ID: prefix + a.id, Object: object, Created: s.cfg.Now().Unix(),
		Model: s.modelName(asked.Model), SystemFingerprint: s.fingerprint(),
	}
}

func (s *Server) fingerprint() string {
	if s.cfg.Fingerprint == nil {
		return ""
	}
	return s.cfg.Fingerprint()
}
