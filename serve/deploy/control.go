package deploy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/remote"
)

// Control is a front end whose nodes are other processes: it admits them, tells
// them of each other, and gives them requests.
type Control struct {
	Engine  *serve.FrontEnd
	Members *cluster.Server
}

// NewControl makes the front end of a model, for nodes that run the same version
// of the program. Of the options those count that all nodes must share.
func NewControl(m *Model, o Options, version string) (*Control, error) {
	if err := o.fill(m.Spec); err != nil {
		return nil, err
	}
	c := &Control{Members: cluster.NewServer(m.Identity(version), o.Experts, o.MicroBatches, o.PeerTimeout)}
	c.Engine = serve.NewFrontEnd(serve.FrontEndConfig{
		Vocabulary: m.Spec.Vocabulary, MaxModelLen: o.MaxModelLen, MaxWaiting: o.MaxWaiting, Missing: c.Missing,
	})
	return c, nil
}

// Missing says which nodes the cluster lacks to serve, or nothing.
func (c *Control) Missing() string {
	view, _ := c.Members.View()
	if missing := view.Missing(); missing != "" {
		return missing
	}
	if c.Engine.Counts().Capacity == 0 {
		return "no attention node has offered to work yet"
	}
	return ""
}

// headerTimeout bounds a node's request line and headers.
const headerTimeout = 5 * time.Second

// Serve admits nodes on a listener until ctx ends.
func (c *Control) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle(c.Members.Handler())
	mux.Handle(remote.Handler(c.Engine, c.Members))
	server := &http.Server{
		Handler: mux, Protocols: cluster.Protocols(), ReadHeaderTimeout: headerTimeout,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	var running sync.WaitGroup
	running.Go(func() { c.Members.Run(ctx) })
	stop := context.AfterFunc(ctx, func() { server.Close() })
	err := server.Serve(l)
	stop()
	running.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("control at %s: %w", l.Addr(), err)
}
