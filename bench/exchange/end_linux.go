package exchange

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// sender is one end's way to send its rows.
type sender interface {
	// rows are the bodies of its messages, one for each receiver.
	rows() [][]byte
	// send sends each row so many times, and returns when the transport no longer
	// needs the caller for it: rows may change when all receivers have them.
	send(ctx context.Context, times int) error
	close() error
}

// receiver is one end's way to receive rows.
type receiver interface {
	// receive returns when so many rows of every sender are there. got sees each
	// as it arrives; those of different senders may come at once.
	receive(ctx context.Context, times int, got func(sender int, row []byte) error) error
	// release gives back what the last rows of an iteration occupy.
	release()
	close() error
}

// plan is how a transport makes its ends.
type plan struct {
	// listen makes a receiver's end, and says where it can be reached.
	listen func(ctx context.Context, self int, s Shape) (r receiver, addr string, err error)
	// connect makes a sender's end.
	connect func(ctx context.Context, self int, s Shape, addrs []string) (sender, error)
}

// plans are the transports whose ends are processes of this program.
func plans() map[string]plan {
	return map[string]plan{
		"shm":     meshPlan("shm"),
		"tcp":     meshPlan("tcp"),
		"m2n-ucx": meshPlan("ucx"),
		"raw":     rawPlan(false),
		"raw-crc": rawPlan(true),

		"grpc":       grpcStyle{}.plan(),
		"grpc-tuned": grpcStyle{tuned: true}.plan(),
	}
}

// End is the life of one end, number rank of a page: senders come first. The
// process that calls it was started by Run, with Options.End.
func End(ctx context.Context, path, transport string, rank int) error {
	plan, known := plans()[transport]
	if !known {
		return fmt.Errorf("no transport %q", transport)
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

func (e *end) runSender(ctx context.Context, plan plan) (err error) {
	if err := e.page.meet(ctx, e.clock, untimed); err != nil { // all receivers listen
		return err
	}
	shape := e.page.shape()
	var addrs []string
	for r := range shape.Receivers {
		addrs = append(addrs, e.page.address(r))
	}
	s, err := plan.connect(ctx, e.rank, shape, addrs)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { err = errors.Join(err, s.close()) }()
	rows := s.rows()
	for r, row := range rows {
		fillRow(row, e.rank, r)
	}
	return e.rounds(ctx, func(mark uint64, _ int) error {
		for _, row := range rows {
			binary.LittleEndian.PutUint64(row, mark)
		}
		return s.send(ctx, shape.Messages)
	})
}

func (e *end) runReceiver(ctx context.Context, plan plan) (err error) {
	shape := e.page.shape()
	self := e.rank - shape.Senders
	r, addr, err := plan.listen(ctx, self, shape)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer func() { err = errors.Join(err, r.close()) }()
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
		if err := r.receive(ctx, shape.Messages, got); err != nil {
			return err
		}
		e.page.done[self][iteration] = e.clock.now()
		r.release()
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
