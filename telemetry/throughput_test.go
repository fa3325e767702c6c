package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// changing is a source whose snapshot a test sets.
type changing struct{ now atomic.Pointer[Snapshot] }

func (c *changing) Snapshot() Snapshot { return *c.now.Load() }

// lockedBuffer is written by one goroutine and read by another: the bubble's time
// does not order them for the race detector.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take returns what has been written since it was called before.
func (l *lockedBuffer) take() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]byte(nil), l.b.Next(l.b.Len())...)
}

// TestThroughput: a line for each interval in which there is something to do.
func TestThroughput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &changing{}
		source.now.Store(&Snapshot{Requests: &Requests{}, Cache: &Cache{Tokens: 1000}})
		m := New("m", source)
		var log lockedBuffer
		ctx, cancel := context.WithCancel(t.Context())
		go m.LogThroughput(ctx, slog.New(slog.NewJSONHandler(&log, nil)), 10*time.Second)
		lines := func() (all []map[string]any) {
			t.Helper()
			synctest.Wait()
			d := json.NewDecoder(bytes.NewReader(log.take()))
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
		source.now.Store(&Snapshot{Requests: &Requests{Running: 1, Waiting: 2},
			Cache: &Cache{Tokens: 1000, Used: 91, PrefixQueries: 70, PrefixHits: 35}})
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
