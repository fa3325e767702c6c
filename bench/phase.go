package bench

import (
	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/serve/node"
	"github.com/tandem-moe/tandem/telemetry/histogram"
)

// phase is what nodes did between two times.
type phase struct {
	// attention and expert are the seconds of a part of a layer, transfer those
	// of a message from post to completion.
	attention, expert, transfer float64
	// attentionBubble and expertBubble are 1 − busy/wall of a pool.
	attentionBubble, expertBubble float64
	// aggregation is rows per run of experts ÷ rows per message.
	aggregation   float64
	rowsPerExpert float64
	// least and most are the rows of the attention nodes with the fewest and the
	// most.
	least, most uint64
	// cpu is the processor time of the engine's processes, in seconds.
	cpu float64
}

// pool is the sums over a pool's nodes.
type pool struct {
	busy, wall float64
	compute    mean
}

func (p *pool) add(before, after *node.Stats) {
	p.busy += (after.Busy - before.Busy).Seconds()
	p.wall += (after.Wall - before.Wall).Seconds()
	p.compute.add(before.Compute, after.Compute)
}

func (p *pool) bubble() float64 { return 1 - ratio(p.busy, p.wall) }

// mean is of what histograms counted between two times.
type mean struct{ sum, count float64 }

func (m *mean) add(before, after histogram.Snapshot) {
	m.sum += after.Sum - before.Sum
	m.count += float64(after.Count() - before.Count())
}

func (m *mean) value() float64 { return ratio(m.sum, m.count) }

// ratio is 0 where there is nothing to divide by.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// newPhase compares the statistics of the same nodes at two times.
func newPhase(before, after []node.Stats) phase {
	var attention, expert pool
	var transfer, rows mean
	var runs, messages float64
	p := phase{least: ^uint64(0)}
	for i := range after {
		b, a := &before[i], &after[i]
		transfer.add(b.Transfer, a.Transfer)
		if a.Role == cluster.Attention {
			attention.add(b, a)
			p.least, p.most = min(p.least, a.Rows-b.Rows), max(p.most, a.Rows-b.Rows)
			continue
		}
		expert.add(b, a)
		rows.add(b.RowsPerExpert, a.RowsPerExpert)
		runs += float64(a.Gather.Runs - b.Gather.Runs)
		messages += float64(a.Gather.Messages - b.Gather.Messages)
	}
	p.attention, p.attentionBubble = attention.compute.value(), attention.bubble()
	p.expert, p.expertBubble = expert.compute.value(), expert.bubble()
	p.transfer, p.rowsPerExpert, p.aggregation = transfer.value(), rows.value(), ratio(messages, runs)
	return p
}
