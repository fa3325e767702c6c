package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/tandem-moe/tandem/internal/connlog"
)

// inBackground runs a function until the returned one is called, which ends its
// context and waits for it.
func inBackground(ctx context.Context, f func(context.Context)) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// scrapeTimeout bounds each phase of a request for metrics or a status.
const scrapeTimeout = 10 * time.Second

// serveStatus answers requests for metrics or a status at an address of their own,
// which a flag names, until end is called.
func serveStatus(log *slog.Logger, flag, address string, handler http.Handler) (bound net.Addr, end func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, nil, fmt.Errorf("listening for %s: %w", flag, err)
	}
	server := &http.Server{
		Handler: handler, ReadTimeout: scrapeTimeout, WriteTimeout: scrapeTimeout, IdleTimeout: time.Minute,
		ErrorLog: connlog.New(log, slog.LevelDebug).Server(),
	}
	endServing := inBackground(context.Background(), func(context.Context) { // until Close
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Warn("a status port serves no more", "flag", flag, "error", err)
		}
	})
	return listener.Addr(), func() {
		_ = server.Close()
		endServing()
	}, nil
}
