package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/tandem-moe/tandem/api"
)

// httpFlags say how the API treats its clients.
type httpFlags struct {
	Strict         bool     `help:"Refuse fields of a request that nobody knows. Default: they are ignored, with the header \"warnings\" and a line in the log."`
	MaxStopStrings count    `help:"Stop strings that a request may have." default:"64"`
	AllowOrigin    []string `help:"Origins whose web pages may use the API (CORS), such as https://example.com; * is any, none is none. Default: any where no key is needed, else none." placeholder:"ORIGIN"`
	MetricsListen  string   `help:"Serve /metrics at this address, and there alone. Default: with the API, where it needs no key." placeholder:"HOST:PORT"`
	NoAccessLog    bool     `help:"Log no line for each request."`
}

// noOrigin is none, among the values of --allow-origin.
const noOrigin = "none"

// check looks at the origins: one that is misspelt would never be allowed.
func (f *httpFlags) check() error {
	for _, o := range f.AllowOrigin {
		u, err := url.Parse(o)
		whole := err == nil && u.Scheme != "" && u.Host != "" && u.Scheme+"://"+u.Host == o
		if o != api.Anywhere && o != noOrigin && !whole {
			return fmt.Errorf("--allow-origin %q: want an origin without a path, such as https://example.com or http://localhost:3000, or *, or none", o)
		}
	}
	if slices.Contains(f.AllowOrigin, noOrigin) && len(f.AllowOrigin) > 1 {
		return errors.New("--allow-origin: none stands with others")
	}
	return nil
}

// origins are those that may use the API; nil: the default.
func (f *httpFlags) origins() []string {
	if slices.Equal(f.AllowOrigin, []string{noOrigin}) {
		return []string{}
	}
	return f.AllowOrigin
}

// metrics serves metrics at an address of their own where the flags name one. It
// returns what is left for the API to serve, and how to end.
func (f *httpFlags) metrics(log *slog.Logger, handler http.Handler) (left http.Handler, end func(), err error) {
	if f.MetricsListen == "" {
		return handler, func() {}, nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", handler)
	bound, end, err := serveStatus(log, "--metrics-listen", f.MetricsListen, mux)
	if err != nil {
		return nil, nil, err
	}
	log.Info("serving /metrics", "url", urlOf("http", bound)+"/metrics")
	return nil, end, nil
}

// throughputEvery is how often a busy server tells what it does, as vLLM.
const throughputEvery = 10 * time.Second
