package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/schollz/progressbar/v3"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/internal/ratelog"
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
		p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(p.w),
			progressbar.OptionSetDescription(p.what),
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
// to serve, whenever that changes, until ctx ends. It warns of nodes that cannot
// reach each other.
func watchNodes(ctx context.Context, s *screen, members *cluster.Server) {
	last, limited := "", ratelog.New(s.log)
	var failing []string
	for {
		view, changed := members.View()
		failing = warnOfPairs(limited, view, failing)
		missing := view.Missing()
		now := missing
		if missing == "" {
			now = fmt.Sprint(settled(view))
		}
		switch {
		case now == last:
		case missing == "":
			s.nodes(table.Row{"node", "part", "address", "epoch", "state"}, settled(view))
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

// warnOfPairs warns of nodes that cannot reach each other and of whom it has not been
// said before, and returns what has been said of those that still cannot.
func warnOfPairs(log *ratelog.Logger, v cluster.View, said []string) []string {
	var failing []string
	for _, u := range v.Unreached {
		text := v.Describe(u)
		failing = append(failing, text)
		if !slices.Contains(said, text) {
			log.Limited(slog.LevelWarn, "nodes cannot reach each other", "reason", text)
		}
	}
	return failing
}

// settled are the rows of the members that have loaded their weights, and tried to
// reach each other.
func settled(v cluster.View) []table.Row {
	var rows []table.Row
	for _, m := range v.Members {
		if s := state(v, m); s != string(deploy.Joined) {
			rows = append(rows, table.Row{m.ID, m.Role, m.Addr, m.Epoch, s})
		}
	}
	return rows
}

// state is how far a member is, in the words of its own /health, and whom it does not
// reach.
func state(v cluster.View, m cluster.Member) string {
	pairs := v.UnreachedBy(m.ID)
	switch {
	case m.Draining:
		return string(deploy.Draining)
	case len(pairs) > 0 && m.Role == cluster.Attention:
		return fmt.Sprintf("cannot reach %s", pairs[0].Expert)
	case len(pairs) > 0:
		return fmt.Sprintf("not reached by %s", pairs[0].Attention)
	case m.Ready && (m.Reached || m.Role == cluster.Expert):
		return string(deploy.Ready)
	}
	return string(deploy.Joined)
}
