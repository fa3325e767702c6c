package m2n

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
)

// maxLanes bounds the connections of a pair.
const maxLanes = 16

// parties are the pairs whose first connection waits for the others.
type parties struct {
	mu sync.Mutex
	m  map[string]*party
}

// party is one of them: what joins comes through a channel.
type party struct {
	token string
	lanes int
	came  chan joined
	over  chan struct{}
}

type joined struct {
	lane int
	s    *stream
}

func (ps *parties) open(lanes int) *party {
	p := &party{token: rand.Text(), lanes: lanes, came: make(chan joined), over: make(chan struct{})}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.m == nil {
		ps.m = make(map[string]*party)
	}
	ps.m[p.token] = p
	return p
}

func (ps *parties) close(p *party) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.m, p.token)
	close(p.over)
}

// join hands a connection to the party that its hello names.
func (ps *parties) join(ctx context.Context, s *stream, theirs greeting) error {
	ps.mu.Lock()
	p := ps.m[theirs.Token]
	ps.mu.Unlock()
	if p == nil {
		return &refusal{Reason: "the connection belongs to none that is being made"}
	}
	if err := s.keep(); err != nil {
		return err
	}
	select {
	case p.came <- joined{theirs.Lane, s}:
		return nil
	case <-p.over:
		return &refusal{Reason: "the pair is connected, or not wanted any more"}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait returns the party's connections, the first one included, or closes those
// that came.
func (p *party) wait(ctx context.Context, first *stream) ([]*stream, error) {
	streams := make([]*stream, p.lanes)
	streams[0] = first
	for n := 1; n < p.lanes; n++ {
		if err := p.next(ctx, streams); err != nil {
			for _, s := range streams[1:] {
				if s != nil {
					s.conn.Close()
				}
			}
			return nil, fmt.Errorf("connection %d of %d: %w", n+1, p.lanes, err)
		}
	}
	return streams, nil
}

func (p *party) next(ctx context.Context, streams []*stream) error {
	select {
	case j := <-p.came:
		if j.lane < 1 || j.lane >= len(streams) || streams[j.lane] != nil {
			j.s.conn.Close()
			return &refusal{Reason: fmt.Sprintf("lane %d came twice, or is not one of %d", j.lane, len(streams))}
		}
		streams[j.lane] = j.s
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for it: %w", ctx.Err())
	}
}
