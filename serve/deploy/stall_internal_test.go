package deploy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/cluster"
)

// TestStalls: which members count as stalled, by when each last made progress and which
// members it waits for.
func TestStalls(t *testing.T) {
	const patience = 10 * time.Second
	now := time.Unix(1000, 0)
	before := func(s int) time.Time { return now.Add(-time.Duration(s) * time.Second) }
	view := cluster.View{Members: []cluster.Member{
		{ID: "a", Role: cluster.Attention},
		{ID: "b", Role: cluster.Attention},
		{ID: "e", Role: cluster.Expert},
		{ID: "f", Role: cluster.Expert},
		{ID: "g", Role: cluster.Expert, Epoch: 9},
	}}
	for name, c := range map[string]struct {
		moved   map[string]int // seconds ago
		awaited map[string][]string
		busy    map[string]int // for how many seconds the node has had requests
		want    []string
	}{
		"all move":                      {moved: map[string]int{"a": 1, "b": 1, "e": 1, "f": 1}, busy: map[string]int{"a": 99, "b": 99}},
		"idle nodes do not move":        {moved: map[string]int{"a": 99, "b": 99, "e": 99, "f": 99}},
		"requests have just come":       {moved: map[string]int{"a": 99, "b": 99, "e": 99, "f": 99}, busy: map[string]int{"a": 9}},
		"one stands still":              {moved: map[string]int{"a": 10, "b": 1, "e": 1, "f": 1}, busy: map[string]int{"a": 99, "b": 99}, want: []string{"a"}},
		"it waits for one that works":   {moved: map[string]int{"a": 10, "b": 1, "e": 1, "f": 50}, awaited: map[string][]string{"a": {"e"}}, busy: map[string]int{"a": 99}},
		"it waits for one that stands":  {moved: map[string]int{"a": 10, "b": 10, "e": 12, "f": 50}, awaited: map[string][]string{"a": {"e"}, "b": {"e"}}, busy: map[string]int{"a": 99, "b": 99}, want: []string{"e"}},
		"for one that has just stopped": {moved: map[string]int{"a": 11, "b": 1, "e": 9, "f": 50}, awaited: map[string][]string{"a": {"e"}}, busy: map[string]int{"a": 99}},
		"for one that came after it":    {moved: map[string]int{"a": 30, "b": 1, "e": 1, "f": 1, "g": 20}, awaited: map[string][]string{"a": {"g"}}, busy: map[string]int{"a": 99}, want: []string{"g"}},
		"it waits for one that is gone": {moved: map[string]int{"a": 10, "b": 1, "e": 1, "f": 1}, awaited: map[string][]string{"a": {"x"}}, busy: map[string]int{"a": 99}, want: []string{"a"}},
	} {
		busy := map[string]time.Time{}
		for id, s := range c.busy {
			busy[id] = before(s)
		}
		var got []string
		for _, s := range stalls(view, func(id string) (cluster.Moved, bool) {
			s, ok := c.moved[id]
			return cluster.Moved{Progress: cluster.Progress{Awaited: c.awaited[id]}, At: before(s)}, ok
		}, busy, now, patience) {
			got = append(got, s.member.ID)
			require.GreaterOrEqual(t, s.still, patience, name)
		}
		require.Equal(t, c.want, got, name)
	}
}
