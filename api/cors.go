package api

import (
	"net/http"
	"slices"
	"strings"
)

// Anywhere, among allowed origins, is any web page.
const Anywhere = "*"

// origins are those whose pages may use the server: as with vLLM any where it
// needs no key.
func (c *Config) origins() []string {
	if c.AllowOrigins == nil && len(c.APIKeys) == 0 {
		return []string{Anywhere}
	}
	return c.AllowOrigins
}

// preflight tells a browser whether a page of another origin may use the server.
// It answers a browser's question before a request, which bears no key.
func (s *Server) preflight(a *answer, r *http.Request) (answered bool) {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	asks := r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
	allowed := s.allow(a.Header(), origin)
	if !asks {
		return false
	}
	if !allowed {
		writeError(a, &Error{
			Status: http.StatusForbidden, Type: "invalid_request_error", Code: "origin_not_allowed",
			Message: "pages of " + clipped(origin) + " may not use this server: its operator can allow them (--allow-origin)",
		})
		return true
	}
	allowRequest(a.Header(), r.Header.Get("Access-Control-Request-Headers"))
	a.WriteHeader(http.StatusNoContent)
	return true
}

// allow says in an answer whether a page of an origin may read it.
func (s *Server) allow(h http.Header, origin string) bool {
	all := slices.Contains(s.origins, Anywhere)
	if !all {
		h.Add("Vary", "Origin")
	}
	switch {
	case all:
		h.Set("Access-Control-Allow-Origin", Anywhere)
	case slices.Contains(s.origins, origin):
		h.Set("Access-Control-Allow-Origin", origin)
	default:
		return false
	}
	h.Set("Access-Control-Expose-Headers", "X-Request-Id, Warnings, Retry-After")
	return true
}

// allowRequest allows what the server understands, and the headers that were asked
// for: clients have some of their own.
func allowRequest(h http.Header, asked string) {
	const longest = 1024
	headers := "Authorization, Content-Type, Content-Encoding, X-Request-Id"
	if asked != "" && len(asked) <= longest && !strings.ContainsFunc(asked, notInNames) {
		headers = asked
	}
	h.Set("Access-Control-Allow-Headers", headers)
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST")
	h.Set("Access-Control-Max-Age", "600")
	h.Add("Vary", "Access-Control-Request-Headers")
}

// notInNames are characters that lists of headers do not have.
func notInNames(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_, ", r))
}
