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
type pendingLinks struct {
	mu sync.Mutex
	m  map[string]*pendingLink
}

// party is one of them: what joins comes through a channel.
type pendingLink struct {
	token string
	lanes int
	joins chan joinedLane
	done  chan struct{}
}

type joinedLane struct {
	lane int
	s    *handshakeConn
}

func (ps *pendingLinks) open(lanes int) *pendingLink {
	p := &pendingLink{token: rand.Text(), lanes: lanes, joins: make(chan joinedLane), done: make(chan struct{})}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.m == nil {
		ps.m = make(map[string]*pendingLink)
	}
	ps.m[p.token] = p
	return p
}

func (ps *pendingLinks) close(p *pendingLink) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.m, p.token)
	close(p.done)
}

// join hands a connection to the party that its hello names.
func (ps *pendingLinks) join(ctx context.Context, s *handshakeConn, theirs greeting) error {
	ps.mu.Lock()
	p := ps.m[theirs.Token]
	ps.mu.Unlock()
	if p == nil {
		return &refusal{Reason: "the connection belongs to none that is being made"}
	}
	if err := s.detach(); err != nil {
		return err
	}
	select {
	case p.joins <- joinedLane{theirs.Lane, s}:
		return nil
	case <-p.done:
		return &refusal{Reason: "the pair is connected, or not wanted any more"}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait returns the party's connections, the first one included, or closes those
// that came.
func (p *pendingLink) wait(ctx context.Context, first *handshakeConn) ([]*handshakeConn, error) {
	streams := make([]*handshakeConn, p.lanes)
	streams[0] = first
	for n := 1; n < p.lanes; n++ {
		if err := p.acceptOne(ctx, streams); err != nil {
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

func (p *pendingLink) acceptOne(ctx context.Context, streams []*handshakeConn) error {
	select {
	case j := <-p.joins:
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
