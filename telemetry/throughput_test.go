package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// changing is a source whose snapshot a test sets.
type changing struct{ now Snapshot }

func (c *changing) Snapshot() Snapshot { return c.now }

// TestThroughput: a line for each interval in which there is something to do.
func TestThroughput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &changing{Snapshot{Requests: &Requests{}, Cache: &Cache{Tokens: 1000}}}
		m := New("m", source)
		var log bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		go m.LogThroughput(ctx, slog.New(slog.NewJSONHandler(&log, nil)), 10*time.Second)
		lines := func() (all []map[string]any) {
			t.Helper()
			synctest.Wait()
			d := json.NewDecoder(&log)
			for d.More() {
				var line map[string]any
				require.NoError(t, d.Decode(&line))
				delete(line, "time")
				all = append(all, line)
			}
			return all
		}
		time.Sleep(35 * time.Second)
		require.Empty(t, lines(), "an idle server tells of nothing")

		s := m.Sequence(70)
		for range 21 {
			s.Token(0)
		}
		source.now = Snapshot{Requests: &Requests{Running: 1, Waiting: 2}, Cache: &Cache{Tokens: 1000, Used: 91, PrefixQueries: 70, PrefixHits: 35}}
		time.Sleep(10 * time.Second)
		require.Equal(t, []map[string]any{{
			"level": "INFO", "msg": "throughput", "prompt_tokens_per_s": 7.0, "output_tokens_per_s": 2.1,
			"running": 1.0, "waiting": 2.0, "kv_cache_percent": 9.1, "prefix_hit_percent": 50.0,
		}}, lines())

		time.Sleep(10 * time.Second) // stuck: nothing is computed, and somebody waits
		require.Equal(t, []map[string]any{{
			"level": "INFO", "msg": "throughput", "prompt_tokens_per_s": 0.0, "output_tokens_per_s": 0.0,
			"running": 1.0, "waiting": 2.0, "kv_cache_percent": 9.1,
		}}, lines())
		cancel()
		synctest.Wait()
	})
	m := New("m", nil)
	m.Sequence(5).Token(0)
	require.Len(t, throughput(work{}, m.work(), time.Second), 2, "a front end tells what it knows")
}
