package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/schollz/progressbar/v3"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// progress draws how much has been loaded, where somebody looks.
type progress struct {
	w    *os.File // nil where nobody looks
	what string

	mu  sync.Mutex
	bar *progressbar.ProgressBar // nil while nothing is loaded
}

// report draws that done of total bytes are loaded.
func (p *progress) report(done, total int64) {
	if p.w == nil {
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

// watchNodes tells what the cluster waits for, or shows its nodes where it is able
// to serve, whenever that changes, until ctx ends.
func watchNodes(ctx context.Context, s *screen, members *cluster.Server) {
	last := ""
	for {
		view, changed := members.View()
		missing := view.Missing()
		now := missing
		if missing == "" {
			now = fmt.Sprint(settled(view))
		}
		switch {
		case now == last:
		case missing == "":
			s.table("node", table.Row{"node", "part", "address", "epoch", "state"}, settled(view))
		default:
			s.log.Info("waiting for nodes", "missing", missing)
		}
		last = now
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// settled are the rows of the members that have loaded their weights.
func settled(v cluster.View) []table.Row {
	var rows []table.Row
	for _, m := range v.Members {
		if s := state(m); s != deploy.Joined {
			rows = append(rows, table.Row{m.ID, m.Role, m.Addr, m.Epoch, s})
		}
	}
	return rows
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
