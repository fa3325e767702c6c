package deploy

import (
	"context"
	"fmt"
	"time"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/schedule"
	"github.com/tandem-moe/tandem/serve"
)

// stallTimeouts is how many PeerTimeouts a node that has work may make no progress: 10 s
// by default. One operation on one thread of a slow machine takes less.
const stallTimeouts = 5

// stall is a member that is alive and makes no progress although others wait for it.
type stall struct {
	member cluster.Member
	still  time.Duration // how long it has made no progress
	// action is the action that the member says it is at; empty where it is at none or
	// names no valid one.
	action string
}

// stalls finds the members that have made no progress for patience: attention nodes
// that have had requests for that long. Where such a node waits for expert nodes, it
// finds those of them that made no progress since the attention node stopped.
func stalls(v cluster.View, moved func(id string) (cluster.Moved, bool), busy map[string]time.Time, now time.Time, patience time.Duration) (found []stall) {
	blamed := map[string]bool{}
	blame := func(m cluster.Member, last cluster.Moved, still time.Duration) {
		if !blamed[m.ID] {
			blamed[m.ID] = true
			found = append(found, stall{m, still, actionOf(last)})
		}
	}
	for _, m := range v.Of(cluster.Attention) {
		last, known := moved(m.ID)
		since, has := busy[m.ID]
		still := now.Sub(later(last.At, since))
		if !known || !has || still < patience {
			continue
		}
		awaited := 0
		for _, id := range last.Awaited {
			e, ok := v.Find(id)
			at, known := moved(id)
			if !ok || !known {
				continue
			}
			awaited++
			if still := now.Sub(later(at.At, last.At)); still >= patience {
				blame(e, at, still)
			}
		}
		if awaited == 0 {
			blame(m, last, still)
		}
	}
	return found
}

// actionOf is the action that a member says it is at; "" where that is no valid action.
func actionOf(m cluster.Moved) string {
	if _, err := schedule.ParseAction(m.Action); err != nil {
		return ""
	}
	return m.Action
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// stallChecks is how many times members are checked within the time that a node may
// make no progress.
const stallChecks = 10

// watchStalls removes members that make no progress, until ctx ends.
func (c *Control) watchStalls(ctx context.Context) {
	tick := time.NewTicker(max(c.stalled/stallChecks, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			view, _ := c.Members.View()
			for _, s := range stalls(view, c.Members.Moved, c.Engine.Busy(), now, c.stalled) {
				c.letGo(s)
			}
		}
	}
}

// letGo removes a member that makes no progress. An attention node's requests are moved
// to other nodes.
func (c *Control) letGo(s stall) {
	reason := fmt.Sprintf("it lives and has not moved for %v", s.still.Round(time.Second/10))
	if s.action != "" {
		reason += ", at action " + s.action
	}
	if s.member.Role == cluster.Attention {
		c.Engine.Move(s.member.ID, &serve.UnavailableError{
			Reason: fmt.Sprintf("attention node %s is lost: %s although it has requests", s.member.ID, reason),
		})
	}
	c.log.Warn("a node stands still", "node", s.member.ID, "still", s.still, "action", s.action)
	c.Members.Remove(s.member.ID, reason)
}
