package gather

import (
	"fmt"
	"testing"

	"github.com/tandem-moe/tandem/internal/golden"
)

// TestInteraction runs the scripts in testdata.
func TestInteraction(t *testing.T) {
	golden.Scripts(t, func() golden.Verbs {
		in := &interaction{}
		return golden.Verbs{
			"new":      in.verb(in.new),      // new layers=(0,1,2) linger=1ms max-rows=100
			"join":     in.verb(in.join),     // join A0 A1
			"busy":     in.verb(in.busy),     // busy A0 101: micro-batches 0 and 2
			"idle":     in.verb(in.idle),     // idle A0
			"arrive":   in.verb(in.arrive),   // arrive A0 17:E3F1 8: step 17, layer 3, micro-batch 1, 8 rows
			"done":     in.verb(in.done),     // done
			"timer":    in.verb(in.timer),    // timer
			"lost":     in.verb(in.lost),     // lost A0
			"describe": in.verb(in.describe), // describe
			"counters": in.verb(in.counters), // counters
		}
	})
}

// interaction is a gather under a script.
type interaction struct{ g *Gather }

// verb makes a script verb that prints what f returns, or its error.
func (in *interaction) verb(f func(*testing.T, *golden.Command) (any, error)) func(*testing.T, *golden.Command) string {
	return func(t *testing.T, c *golden.Command) string {
		out, err := f(t, c)
		if err != nil {
			return "error: " + err.Error()
		}
		return fmt.Sprint(out)
	}
}

func (in *interaction) new(t *testing.T, c *golden.Command) (any, error) {
	c.Known(t, "layers", "linger", "max-rows")
	var cfg Config
	c.MaybeScanArgs(t, "layers", &cfg.Layers)
	c.MaybeScanArgs(t, "linger", &cfg.Linger)
	c.MaybeScanArgs(t, "max-rows", &cfg.MaxRows)
	var err error
	in.g, err = New(cfg)
	return "ok", err
}

func (in *interaction) join(_ *testing.T, c *golden.Command) (any, error) {
	for _, name := range c.Words() {
		if err := in.g.Joined(name); err != nil {
			return nil, err
		}
	}
	return "ok", nil
}

func (in *interaction) busy(t *testing.T, c *golden.Command) (any, error) {
	set := uint64(0)
	for i, bit := range c.Word(t, 1) {
		if bit == '1' {
			set |= 1 << i
		}
	}
	return in.g.Busy(c.Word(t, 0), set, c.Now)
}

func (in *interaction) idle(t *testing.T, c *golden.Command) (any, error) {
	return in.g.Busy(c.Word(t, 0), 0, c.Now)
}

func (in *interaction) arrive(t *testing.T, c *golden.Command) (any, error) {
	m := Message{Node: c.Word(t, 0)}
	message := c.Word(t, 1) + " " + c.Word(t, 2)
	if _, err := fmt.Sscanf(message, "%d:E%dF%d %d", &m.Step, &m.Layer, &m.MicroBatch, &m.Rows); err != nil {
		c.Fatalf(t, "arrive: %q: %v", message, err)
	}
	return in.g.Arrive(m, c.Now)
}

func (in *interaction) done(_ *testing.T, c *golden.Command) (any, error) {
	if in.g.running == nil {
		return "nothing runs", nil
	}
	return in.g.Done(c.Now), nil
}

func (in *interaction) timer(_ *testing.T, c *golden.Command) (any, error) {
	return in.g.Timer(c.Now), nil
}

func (in *interaction) lost(t *testing.T, c *golden.Command) (any, error) {
	return in.g.Lost(c.Word(t, 0), c.Now), nil
}

func (in *interaction) describe(*testing.T, *golden.Command) (any, error) {
	return in.g.Describe(), nil
}

func (in *interaction) counters(*testing.T, *golden.Command) (any, error) {
	c := in.g.Counters()
	return fmt.Sprintf("%+v\naggregation %.2f", c, c.Aggregation()), nil
}
