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

// Control is a front end whose nodes are other processes: it admits them, tells
// them of each other, and gives them requests.
type Control struct {
	Engine  *frontend.FrontEnd
	Members *cluster.Server

	judge   *judge
	options Options
	tls     *certs.Identity
	api     string // its URL
	log     *slog.Logger
	stalled time.Duration // how long a node that is to work may stand still
}

// NewControl makes the front end of a model, for nodes that run the same version
// of the program. Of the options those count that all nodes must share.
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

// members says which nodes are missing, or nothing.
func (c *Control) members() string {
	view, _ := c.Members.View()
	return view.Missing()
}

// holds says whether an attention node lacks expert nodes.
func (c *Control) holds(node string) bool {
	view, _ := c.Members.View()
	m, ok := view.Find(node)
	return ok && !m.Reached
}

// Failing says which nodes cannot reach each other, whether others serve or not, or
// nothing.
func (c *Control) Failing() string {
	view, _ := c.Members.View()
	if len(view.Unreached) == 0 {
		return ""
	}
	return view.DescribeAll(view.Unreached)
}

// Missing says what the cluster lacks to serve, or nothing.
func (c *Control) Missing() string {
	if missing := c.members(); missing != "" {
		return missing
	}
	if c.Engine.Counts().Capacity == 0 {
		return "no attention node has offered to work yet"
	}
	return ""
}

// What a connection of the control port may take before and between requests.
const (
	// headerTimeout bounds a request line and headers, headerBytes their size.
	headerTimeout = 5 * time.Second
	headerBytes   = 16 << 10
	// idleTimeout closes a connection that has no stream.
	idleTimeout = 10 * time.Second
	// pingAfter is the silence after which a peer is asked whether it is there, and
	// pingTimeout how long the answer may take.
	pingAfter, pingTimeout = 5 * time.Second, 5 * time.Second
	// maxStreams of a connection: a node has two, and those of an earlier membership.
	maxStreams = 8
	// streamWindow and connWindow are what may be sent to the front end and not be
	// read: what a stranger can make it keep.
	streamWindow, connWindow = 256 << 10, 512 << 10
)

// secure puts TLS on a listener, where the cluster has it, and returns the log
// for connections that fail.
func (c *Control) secure(l net.Listener) (net.Listener, *slog.Logger) {
	if c.tls == nil {
		failed := connlog.New(c.log, slog.LevelDebug)
		return cluster.ListenPlain(l, func(from net.Addr, why error) { failed.Failed(from.String(), why.Error()) }), c.log
	}
	return cluster.ListenTLS(l, c.tls.TLS()), c.log.With("certificate", c.tls.Cert, "authority", c.tls.CA)
}

// server is the control port's.
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
	// Streams know why they end.
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
			cancel() // it can vouch for nothing
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

// farewell bounds the time in which nodes hear that the front end stops.
const farewell = time.Second

// shutdown ends a server whose handlers are ending.
func shutdown(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close() // what is left is cut off
	}
}

// releasePause is how long a node that drains stays after its last request, at
// most.
const releasePause = 20 * time.Millisecond

// release lets nodes that drain go once no request needs them, until ctx ends.
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

// needs says whether a request needs a node that drains: one of its own, or, of
// an expert node, any.
func (c *Control) needs(m cluster.Member) bool {
	if m.Role == cluster.Attention {
		return c.Engine.Drain(m.ID) > 0
	}
	return c.Engine.Counts().Requests > 0
}
