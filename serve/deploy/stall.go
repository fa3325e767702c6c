package deploy

import (
	"context"
	"fmt"
	"time"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/schedule"
	"github.com/tandem-moe/tandem/serve"
)

// stallTimeouts is how many PeerTimeouts a node may stand still while it is to
// work: 10 s as a rule. One operation on one thread of a slow machine takes less.
const stallTimeouts = 5

// stall is a member that lives and does not move although others wait for it.
type stall struct {
	member cluster.Member
	still  time.Duration
	// action is the one that it is at, as it says; empty: at none, or no action.
	action string
}

// stalls finds the members that have stood still for patience: attention nodes that
// have had requests for as long, or, where those wait for expert nodes, these.
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

// actionOf is the action that a member says it is at, if it is one.
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

// stallChecks is how often there is a look in the time that a node may stand still.
const stallChecks = 10

// watchStalls takes requests from nodes that stand still, and lets those go, until
// ctx ends.
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

// letGo removes a member that stands still. The requests of an attention node are
// moved to others.
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
