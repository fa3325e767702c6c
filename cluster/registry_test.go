package cluster

import (
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLivesShareNoIDs: a front end that starts again gives no id and no epoch that
// it has given before.
func TestLivesShareNoIDs(t *testing.T) {
	seen := map[string]bool{}
	epoch := uint64(0)
	for life := range 3 {
		r := NewRegistry(identity, settings, time.Second)
		r.Begin(time.Unix(1e9, int64(life)*1e6))
		for range 3 {
			m, err := r.Join(Hello{Role: Attention, Addr: "tcp:x:1", Identity: identity, Place: AnyPlace}, time.Time{})
			require.NoError(t, err)
			require.False(t, seen[m.ID], m.ID)
			require.Greater(t, m.Epoch, epoch)
			require.Regexp(t, regexp.MustCompile(`^attention-\d\.[0-9a-z]+$`), m.ID)
			seen[m.ID], epoch = true, m.Epoch
		}
	}
}

// TestWhoLoadsNothingLosesItsPlace: a member that is not ready may take as long as
// it likes while it loads, and not long where it does not.
func TestWhoLoadsNothingLosesItsPlace(t *testing.T) {
	r := NewRegistry(identity, settings, time.Hour)
	now := time.Unix(0, 0)
	loads, err := r.Join(Hello{Role: Expert, Addr: "tcp:x:1", Identity: identity, Place: AnyPlace}, now)
	require.NoError(t, err)
	idle, err := r.Join(Hello{Role: Attention, Addr: "tcp:x:1", Identity: identity, Place: AnyPlace}, now)
	require.NoError(t, err)
	ready, err := r.Join(Hello{Role: Attention, Addr: "tcp:x:1", Identity: identity, Place: AnyPlace}, now)
	require.NoError(t, err)
	require.NoError(t, r.Ready(ready.ID, 0, now))
	var gone []string
	for i := range 60 {
		now = now.Add(loadPatience / 10)
		require.NoError(t, r.Progress(loads.ID, Progress{Loaded: uint64(i / 5)}, now))
		require.NoError(t, r.Progress(ready.ID, Progress{}, now))
		if r.Gone(idle.ID) == "" {
			require.NoError(t, r.Progress(idle.ID, Progress{}, now))
		}
		gone = append(gone, r.Expire(now)...)
	}
	require.Equal(t, []string{idle.ID}, gone)
	require.Equal(t, "it is not ready, and has loaded nothing for 2m0s", r.Gone(idle.ID))
	m, ok := r.Moved(loads.ID)
	require.True(t, ok)
	require.Equal(t, uint64(11), m.Loaded)
	require.Equal(t, time.Unix(0, 0).Add(56*loadPatience/10), m.At, "when it last moved")
}

// TestLoadingEnds: a member that says for ever that it loads holds its place no longer
// than the limit.
func TestLoadingEnds(t *testing.T) {
	r := NewRegistry(identity, settings, time.Hour)
	now := time.Unix(0, 0)
	liar, err := r.Join(Hello{Role: Expert, Addr: "tcp:x:1", Identity: identity, Place: AnyPlace}, now)
	require.NoError(t, err)
	var loaded uint64
	for r.Gone(liar.ID) == "" {
		require.LessOrEqual(t, now.Sub(time.Unix(0, 0)), loadLimit)
		now, loaded = now.Add(loadPatience/2), loaded+1
		require.NoError(t, r.Progress(liar.ID, Progress{Loaded: loaded}, now))
		r.Expire(now)
	}
	require.Equal(t, "it is not ready 1h0m0s after it joined", r.Gone(liar.ID))
}

// TestDeparturesAreBounded: who is gone is remembered, and not for ever.
func TestDeparturesAreBounded(t *testing.T) {
	r := NewRegistry(identity, settings, time.Second)
	first := ""
	for range rememberedDepartures + 1 {
		m, err := r.Join(Hello{Role: Attention, Addr: "tcp:x:1", Identity: identity, Place: AnyPlace}, time.Time{})
		require.NoError(t, err)
		if first == "" {
			first = m.ID
		}
		require.True(t, r.Remove(m.ID, "reason of "+m.ID))
		require.Equal(t, "reason of "+m.ID, r.Gone(m.ID))
	}
	require.Empty(t, r.Gone(first))
	require.Len(t, r.gone, rememberedDepartures)
}
