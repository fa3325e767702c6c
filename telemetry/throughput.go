package telemetry

import (
	"context"
	"log/slog"
	"math"
	"time"
)

// work is what had been done at some time, and what there was to do.
type work struct {
	prompt, output uint64 // tokens since the start
	Snapshot
}

// LogThroughput logs how fast tokens are computed, in intervals in which there is
// something to do, until ctx ends. The figures are those that vLLM logs.
func (m *Metrics) LogThroughput(ctx context.Context, log *slog.Logger, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	before, since := m.work(), m.now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, at := m.work(), m.now()
		if line := throughput(before, now, at.Sub(since)); line != nil {
			log.LogAttrs(ctx, slog.LevelInfo, "throughput", line...)
		}
		before, since = now, at
	}
}

func (m *Metrics) work() work {
	w := work{prompt: m.prompted.Load(), output: m.generated.Load()}
	if m.source != nil {
		w.Snapshot = m.source.Snapshot()
	}
	return w
}

// throughput is what was done in an interval; nil: nothing, and there is nothing to
// do.
func throughput(before, now work, interval time.Duration) []slog.Attr {
	prompt, output := now.prompt-before.prompt, now.output-before.output
	r := now.Requests
	if prompt == 0 && output == 0 && (r == nil || r.Running == 0 && r.Waiting == 0) {
		return nil
	}
	line := []slog.Attr{
		rounded("prompt_tokens_per_s", float64(prompt)/interval.Seconds()),
		rounded("output_tokens_per_s", float64(output)/interval.Seconds()),
	}
	if r != nil {
		line = append(line, slog.Int("running", r.Running), slog.Int("waiting", r.Waiting))
	}
	if c := now.Cache; c != nil && c.Tokens > 0 {
		line = append(line, rounded("kv_cache_percent", 100*float64(c.Used)/float64(c.Tokens)))
		line = append(line, hits(before.Cache, c)...)
	}
	return line
}

// hits is the share of prompt tokens that the prefix cache had, of those looked up
// in the interval.
func hits(before, now *Cache) []slog.Attr {
	if before == nil || now.PrefixQueries == before.PrefixQueries {
		return nil
	}
	found, asked := now.PrefixHits-before.PrefixHits, now.PrefixQueries-before.PrefixQueries
	return []slog.Attr{rounded("prefix_hit_percent", 100*float64(found)/float64(asked))}
}

// rounded is a figure for people, to a tenth.
func rounded(name string, value float64) slog.Attr {
	return slog.Float64(name, math.Floor(value*10+0.5)/10)
}
