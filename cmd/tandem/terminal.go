package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// progress draws how much has been loaded, where somebody looks.
type progress struct {
	w    *os.File
	what string

	mu  sync.Mutex
	bar *progressbar.ProgressBar // nil while nothing is loaded
}

// newProgress returns a bar that draws on a terminal and nowhere else.
func newProgress(w *os.File, what string) *progress { return &progress{w: w, what: what} }

// report draws that done of total bytes are loaded.
func (p *progress) report(done, total int64) {
	if !term.IsTerminal(int(p.w.Fd())) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(p.w), progressbar.OptionSetDescription(p.what),
			progressbar.OptionShowBytes(true), progressbar.OptionShowCount(), progressbar.OptionShowTotalBytes(true),
			progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(50*time.Millisecond))
	}
	_ = p.bar.Set64(done) // drawing is best effort
	if done == total {
		p.bar = nil
	}
}

// done removes the bar.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
}

// printNodes draws a table of nodes.
func printNodes(w io.Writer, nodes []deploy.NodeInfo) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"node", "part", "device", "holds"})
	for _, n := range nodes {
		t.AppendRow(table.Row{n.Node, n.Role, n.Device, n.Holds})
	}
	t.Render()
}

// watchNodes tells what the cluster waits for, and draws a table of its nodes when
// it is able to serve, until ctx ends.
func watchNodes(ctx context.Context, log *slog.Logger, w io.Writer, members *cluster.Server) {
	last := "nothing yet"
	for {
		view, changed := members.View()
		if missing := view.Missing(); missing != last {
			last = missing
			if missing == "" {
				printView(w, view)
			} else {
				log.Info("waiting for nodes", "missing", missing)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// printView draws a table of the members of a view.
func printView(w io.Writer, v cluster.View) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"node", "part", "address", "epoch", "state"})
	for _, m := range v.Members {
		t.AppendRow(table.Row{m.ID, m.Role, m.Addr, m.Epoch, state(m)})
	}
	t.Render()
}

// state is how far a member is, in the words of its own /health.
func state(m cluster.Member) deploy.State {
	switch {
	case m.Draining:
		return deploy.Draining
	case m.Ready:
		return deploy.Ready
	}
	return deploy.Joined
}
