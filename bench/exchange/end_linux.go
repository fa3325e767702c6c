package exchange

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// plans are the transports whose ends are processes of this program.
func plans() map[string]Plan {
	return map[string]Plan{
		"shm":     meshPlan("shm"),
		"tcp":     meshPlan("tcp"),
		"m2n-ucx": meshPlan("ucx"),
		"raw":     rawPlan(false),
		"raw-crc": rawPlan(true),
	}
}

// End is the life of one end, number rank of a page: senders come first. The
// process that calls it was started by Run, with Options.End.
func End(ctx context.Context, path, transport string, rank int) error {
	return EndOf(ctx, plans(), path, transport, rank)
}

// EndOf is End for a program that brings transports of its own along, by name.
func EndOf(ctx context.Context, plans map[string]Plan, path, transport string, rank int) error {
	plan, known := plans[transport]
	if !known {
		return fmt.Errorf("no transport %q: this program has %s", transport, strings.Join(slices.Sorted(maps.Keys(plans)), ", "))
	}
	p, err := openPage(path)
	if err != nil {
		return err
	}
	defer p.close()
	if rank < 0 || rank >= len(p.members) {
		return fmt.Errorf("rank %d: the page is for %d ends", rank, len(p.members))
	}
	clock, err := newClock()
	if err != nil {
		return err
	}
	e := &end{page: p, clock: clock, rank: rank}
	if rank < int(p.senders) {
		err = e.runSender(ctx, plan)
	} else {
		err = e.runReceiver(ctx, plan)
	}
	if err != nil {
		return fmt.Errorf("%s, rank %d: %w", transport, rank, err)
	}
	return nil
}

// end is a process's part.
type end struct {
	page  *page
	clock *clock
	rank  int
}

func (e *end) runSender(ctx context.Context, plan Plan) (err error) {
	if err := e.page.meet(ctx, e.clock, untimed); err != nil { // all receivers listen
		return err
	}
	shape := e.page.shape()
	var addrs []string
	for r := range shape.Receivers {
		addrs = append(addrs, e.page.address(r))
	}
	s, err := plan.Connect(ctx, e.rank, shape, addrs)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	rows := s.Rows()
	for r, row := range rows {
		fillRow(row, e.rank, r)
	}
	return e.rounds(ctx, func(mark uint64, _ int) error {
		for _, row := range rows {
			binary.LittleEndian.PutUint64(row, mark)
		}
		return s.Send(ctx, shape.Messages)
	})
}

func (e *end) runReceiver(ctx context.Context, plan Plan) (err error) {
	shape := e.page.shape()
	self := e.rank - shape.Senders
	r, addr, err := plan.Listen(ctx, self, shape)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := e.page.setAddress(self, addr); err != nil {
		return err
	}
	if err := e.page.meet(ctx, e.clock, untimed); err != nil {
		return err
	}
	return e.rounds(ctx, func(mark uint64, iteration int) error {
		got := func(s int, row []byte) error { return checkMark(row, s, self, mark) }
		if e.page.check != 0 {
			got = func(s int, row []byte) error {
				return errors.Join(checkMark(row, s, self, mark), checkRow(row, s, self))
			}
		}
		if err := r.Receive(ctx, shape.Messages, got); err != nil {
			return err
		}
		e.page.done[self][iteration] = e.clock.now()
		r.Release()
		return nil
	})
}

// rounds does what the parent commands until it says stop.
func (e *end) rounds(ctx context.Context, exchange func(mark uint64, iteration int) error) error {
	p := e.page
	for round := uint32(1); ; round++ {
		if err := waitWhile(ctx, &p.command, round-1); err != nil {
			return err
		}
		if p.stop.Load() != 0 {
			return nil
		}
		if err := e.round(ctx, round, exchange); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if p.finished.Add(1) == uint32(len(p.members)) {
			wake(&p.finished)
		}
	}
}

func (e *end) round(ctx context.Context, round uint32, exchange func(mark uint64, iteration int) error) error {
	before, err := cpuTime()
	if err != nil {
		return err
	}
	for i := range int(e.page.iterations) {
		if err := e.page.meet(ctx, e.clock, i); err != nil {
			return err
		}
		if err := exchange(markOf(round, i), i); err != nil {
			return fmt.Errorf("iteration %d: %w", i, err)
		}
	}
	after, err := cpuTime()
	e.page.members[e.rank].cpu = after - before
	return err
}
