package deploy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/certs"
	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/internal/connlog"
	"github.com/tandem-moe/tandem/serve/frontend"
	"github.com/tandem-moe/tandem/serve/remote"
)

// Control is a front end whose nodes are other processes: it admits nodes to the
// cluster, tells them of each other, and gives them requests.
type Control struct {
	Engine  *frontend.FrontEnd
	Members *cluster.Server

	judge   *judge
	options Options
	tls     *certs.Identity
	api     string // the API's URL
	log     *slog.Logger
	stalled time.Duration // how long a node that has work may make no progress
}

// NewControl makes the front end of a model, for nodes that run the same version of the
// program. It uses only the options that all nodes must share, and those of the front
// end itself.
func NewControl(m *Model, o Options, version string) (*Control, error) {
	if err := o.fill(m.Spec); err != nil {
		return nil, err
	}
	if err := o.fillPlacement(m.Spec); err != nil {
		return nil, err
	}
	if err := m.checkForeign(o.Log, attentionRole, expertRole(nil)); err != nil {
		return nil, err
	}
	c := &Control{options: o, tls: o.TLS, api: o.API, log: o.Log, stalled: stallTimeouts * o.PeerTimeout, Members: cluster.NewServer(m.Identity(version), cluster.Settings{
		ExpertNodes: o.Experts, MicroBatches: o.MicroBatches, MaxModelLen: o.MaxModelLen, MaxBatchedTokens: o.MaxBatchedTokens,
		Wire: o.Wire.Rows.String(), Combine: o.Wire.Combine.String(),
	}, o.PeerTimeout)}
	c.judge = newJudge(m, o.Log)
	c.Members.Judge, c.Members.Log = c.judge, o.Log
	if _, err := c.propose(o.Placement); err != nil {
		return nil, err
	}
	c.Engine = frontend.New(frontend.Config{
		Vocabulary: m.Spec.Vocabulary, MaxModelLen: o.MaxModelLen, MaxBatchedTokens: o.MaxBatchedTokens,
		MaxWaiting: o.MaxWaiting, Missing: c.members, Holds: c.holds,
	})
	return c, nil
}

// members says which nodes are missing; "" where none is.
func (c *Control) members() string {
	view, _ := c.Members.View()
	return view.Missing()
}

// holds says whether an attention node is not connected with all expert nodes, and so
// holds its requests back.
func (c *Control) holds(node string) bool {
	view, _ := c.Members.View()
	m, ok := view.Find(node)
	return ok && !m.Reached
}

// Failing says which nodes cannot reach each other, even while others serve; "" where
// none.
func (c *Control) Failing() string {
	view, _ := c.Members.View()
	if len(view.Unreached) == 0 {
		return ""
	}
	return view.DescribeAll(view.Unreached)
}

// Missing says what the cluster lacks to serve; "" where it serves.
func (c *Control) Missing() string {
	if missing := c.members(); missing != "" {
		return missing
	}
	if c.Engine.Counts().Capacity == 0 {
		return "no attention node has offered to work yet"
	}
	return ""
}

// Limits of a connection to the control port.
const (
	// headerTimeout bounds a request line and headers, headerBytes their size.
	headerTimeout = 5 * time.Second
	headerBytes   = 16 << 10
	// idleTimeout closes a connection that has no stream.
	idleTimeout = 10 * time.Second
	// pingAfter is the silence after which a peer gets a ping, and pingTimeout how long
	// its answer may take.
	pingAfter, pingTimeout = 5 * time.Second, 5 * time.Second
	// maxStreams bounds the streams of a connection: a node has two.
	maxStreams = 8
	// streamWindow and connWindow bound the bytes that the front end has received and
	// not read, of a stream and a connection: a stranger can make it keep that much.
	streamWindow, connWindow = 256 << 10, 512 << 10
)

// secure puts TLS on a listener if the cluster has TLS, and returns the log for
// connections that fail.
func (c *Control) secure(l net.Listener) (net.Listener, *slog.Logger) {
	if c.tls == nil {
		failed := connlog.New(c.log, slog.LevelDebug)
		return cluster.ListenPlain(l, func(from net.Addr, why error) { failed.Failed(from.String(), why.Error()) }), c.log
	}
	return cluster.ListenTLS(l, c.tls.TLS()), c.log.With("certificate", c.tls.Cert, "authority", c.tls.CA)
}

// server is the HTTP server of the control port.
func (c *Control) server(ctx context.Context, log *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle(c.Members.Handler())
	mux.Handle(remote.Handler(c.Engine, c.Members))
	mux.Handle("/", cluster.Stranger(c.api))
	return &http.Server{
		Handler: mux, Protocols: cluster.Protocols(),
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: pingTimeout,
			MaxReceiveBufferPerStream: streamWindow, MaxReceiveBufferPerConnection: connWindow,
		},
		BaseContext: func(net.Listener) context.Context { return ctx }, ConnContext: cluster.ConnContext,
		ErrorLog: connlog.New(log, slog.LevelWarn).Server(),
	}
}

// Serve admits nodes on a listener until ctx ends.
func (c *Control) Serve(outer context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	// The streams' context ends with a cause, so that nodes are told that the front end
	// stops.
	streams, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, func() { end(cluster.ErrStopping) })()
	defer end(cluster.ErrStopping)
	l, log := c.secure(c.Members.Bounded(l))
	server := c.server(streams, log)
	var running sync.WaitGroup
	running.Go(func() { c.Members.Run(ctx) })
	running.Go(func() { c.release(ctx) })
	running.Go(func() { c.watchStalls(ctx) })
	var unread error
	running.Go(func() {
		if unread = c.judge.readOwn(ctx); unread != nil && ctx.Err() == nil {
			cancel() // without its own digests, the front end cannot compare weights
		}
	})
	stopped := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(stopped)
		shutdown(server)
	})
	err := server.Serve(l)
	cancel()
	<-stopped
	running.Wait()
	if unread != nil && outer.Err() == nil && !errors.Is(unread, context.Canceled) {
		return unread
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("control at %s: %w", l.Addr(), err)
}

// farewell is how long the front end waits for nodes to be told that it stops.
const farewell = time.Second

// shutdown stops a server whose handlers are already ending.
func shutdown(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close() // closes the connections that are left
	}
}

// releasePause is how long a draining node stays at most after its last request.
const releasePause = 20 * time.Millisecond

// release removes draining nodes once no request needs them, until ctx ends.
func (c *Control) release(ctx context.Context) {
	pause := time.NewTicker(releasePause)
	defer pause.Stop()
	for {
		view, changed := c.Members.View()
		var again <-chan time.Time
		for _, m := range view.Members {
			switch {
			case !m.Draining:
			case c.needs(m):
				again = pause.C
			default:
				c.Members.Expel(m.ID)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-again:
		}
	}
}

// needs says whether a request needs a draining node: an attention node is needed by
// its own requests, an expert node by any request.
func (c *Control) needs(m cluster.Member) bool {
	if m.Role == cluster.Attention {
		return c.Engine.Drain(m.ID) > 0
	}
	return c.Engine.Counts().Requests > 0
}
