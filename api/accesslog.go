package api

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/tandem-moe/tandem/internal/clip"
	"github.com/tandem-moe/tandem/serve/completion"
)

// access is what the access log says of a request.
type access struct {
	id     string
	began  time.Time
	status int
	failed string // what an error answer says, or why one that had begun was broken off
	// counted says that tokens were computed: usage, and when the first came.
	counted bool
	usage   completion.Usage
	first   time.Time
}

// accessOf is what is logged of an answer that ServeHTTP made.
func accessOf(w http.ResponseWriter) *access { return &w.(*answer).access }

func (v *access) count(run *completion.Run) {
	v.counted, v.usage, v.first = true, run.Usage(), run.First()
}

// probes are asked again and again, also while nothing can be served: a line for
// each would hide the others.
var probes = []string{"/health", "/metrics"}

// note writes the access log's line.
func (s *Server) note(a *answer, r *http.Request) {
	level := slog.LevelInfo
	if slices.Contains(probes, r.URL.Path) {
		level = slog.LevelDebug
	}
	if s.cfg.NoAccessLog || !s.cfg.Log.Enabled(context.Background(), level) {
		return
	}
	line := []slog.Attr{
		slog.String("method", clipped(r.Method)), slog.String("path", clipped(r.URL.Path)),
		slog.Int("status", a.status),
		milliseconds("duration_ms", time.Since(a.began)), slog.String("client", r.RemoteAddr), slog.String("id", a.id),
	}
	if a.counted {
		line = append(line, slog.Int("prompt_tokens", a.usage.Prompt), slog.Int("output_tokens", a.usage.Completion))
	}
	if !a.first.IsZero() {
		line = append(line, milliseconds("first_token_ms", a.first.Sub(a.began)))
	}
	if a.failed != "" {
		line = append(line, slog.String("error", clip.Text(a.failed, 256)))
	}
	s.cfg.Log.LogAttrs(context.Background(), level, "request", line...)
}

// milliseconds is a duration as a number, to the microsecond.
func milliseconds(name string, d time.Duration) slog.Attr {
	return slog.Float64(name, float64(d.Microseconds())/1000)
}
