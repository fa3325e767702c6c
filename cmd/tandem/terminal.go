package main

import (
	"context"
	"fmt"
	"io"
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
	mu  sync.Mutex
	bar *progressbar.ProgressBar
	max int64
}

// newProgress returns a bar that draws on a terminal and nowhere else.
func newProgress(w *os.File, what string) *progress {
	p := &progress{}
	if term.IsTerminal(int(w.Fd())) {
		p.bar = progressbar.NewOptions64(1, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(what),
			progressbar.OptionShowBytes(true), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(50*time.Millisecond))
	}
	return p
}

// report draws that done of total bytes are loaded.
func (p *progress) report(done, total int64) {
	if p.bar == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if total != p.max {
		p.bar.ChangeMax64(total)
		p.max = total
	}
	_ = p.bar.Set64(done) // drawing is best effort
}

// done removes the bar.
func (p *progress) done() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}

// printNodes draws a table of nodes.
func printNodes(w io.Writer, nodes []deploy.NodeInfo) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"node", "part", "address", "device", "holds"})
	for _, n := range nodes {
		t.AppendRow(table.Row{n.Node, n.Role, n.Addr, n.Device, n.Holds})
	}
	t.Render()
}

// watchNodes draws the table again when the cluster becomes able to serve, or no
// longer is, until ctx ends.
func watchNodes(ctx context.Context, w io.Writer, members *cluster.Server) {
	last := "-"
	for {
		view, changed := members.View()
		if missing := view.Missing(); missing != last {
			printView(w, view, missing)
			last = missing
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// printView draws the members of a view.
func printView(w io.Writer, v cluster.View, missing string) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"node", "part", "place", "address", "epoch", "ready"})
	for _, m := range v.Members {
		t.AppendRow(table.Row{m.ID, m.Role, m.Place, m.Addr, m.Epoch, m.Ready})
	}
	t.Render()
	if missing != "" {
		fmt.Fprintf(w, "waiting: %s\n", missing)
		return
	}
	fmt.Fprintln(w, "ready")
}
