package api

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

// Serve answers requests on a listener until ctx ends, and then drains: running
// requests finish within the grace, new ones are answered with 503, and so is
// /health. What still runs after the grace is cancelled. The listener is closed.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	base, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.cfg.Limits.Header,
		IdleTimeout:       s.cfg.Limits.Idle,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          connlog.New(s.cfg.Log, slog.LevelDebug).Server(),
		BaseContext:       func(net.Listener) context.Context { return base },
	}
	accepting := newListener(listener, s.cfg.Limits.Connections, s.log)
	server.ConnState, server.ConnContext = accepting.table.observe, withConnection
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(accepting) }()
	select {
	case err := <-failed:
		return errors.Join(fmt.Errorf("serving HTTP on %s: %w", listener.Addr(), err), server.Close())
	case <-ctx.Done():
	}
	s.drain()
	stop(notReady("the server is shutting down"))
	err := s.shutdown(server)
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// drain waits for running requests, up to the grace.
func (s *Server) drain() {
	timer := time.NewTimer(s.cfg.Limits.Grace)
	defer timer.Stop()
	select {
	case <-s.gate.shut():
	case <-timer.C:
	}
}

// shutdown closes connections, and gives cancelled requests a moment to say so.
func (s *Server) shutdown(server *http.Server) error {
	const moment = 2 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), moment)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return server.Close()
	}
	return nil
}
