package m2n

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
)

// maxLanes bounds the connections of a pair.
const maxLanes = 16

// pendingLinks are the links of an accepting endpoint whose first connection is there,
// and waits for the others. A token names each; the end that dials shows the token on
// the connections that it makes next.
type pendingLinks struct {
	mu sync.Mutex
	m  map[string]*pendingLink // by token
}

// pendingLink is one of them. The goroutine of the first connection receives the others
// through a channel.
type pendingLink struct {
	token string
	lanes int
	joins chan joinedLane
	done  chan struct{} // closed when the link wants no more connections
}

// joinedLane is a connection that has shown the token, and its place among the lanes.
type joinedLane struct {
	lane int
	conn *handshakeConn
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

// join hands a connection to the link whose token its hello shows.
func (ps *pendingLinks) join(ctx context.Context, c *handshakeConn, theirs greeting) error {
	ps.mu.Lock()
	p := ps.m[theirs.Token]
	ps.mu.Unlock()
	if p == nil {
		return &refusal{Reason: "the connection belongs to none that is being made"}
	}
	if err := c.detach(); err != nil {
		return err
	}
	select {
	case p.joins <- joinedLane{theirs.Lane, c}:
		return nil
	case <-p.done:
		return &refusal{Reason: "the pair is connected, or not wanted any more"}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait returns the connections of all lanes, the first one included. On an error it
// closes those that have joined.
func (p *pendingLink) wait(ctx context.Context, first *handshakeConn) ([]*handshakeConn, error) {
	conns := make([]*handshakeConn, p.lanes)
	conns[0] = first
	for n := 1; n < p.lanes; n++ {
		if err := p.acceptOne(ctx, conns); err != nil {
			for _, c := range conns[1:] {
				if c != nil {
					c.conn.Close()
				}
			}
			return nil, fmt.Errorf("connection %d of %d: %w", n+1, p.lanes, err)
		}
	}
	return conns, nil
}

// acceptOne puts the next connection that joins into its place.
func (p *pendingLink) acceptOne(ctx context.Context, conns []*handshakeConn) error {
	select {
	case j := <-p.joins:
		if j.lane < 1 || j.lane >= len(conns) || conns[j.lane] != nil {
			j.conn.conn.Close()
			return &refusal{Reason: fmt.Sprintf("lane %d came twice, or is not one of %d", j.lane, len(conns))}
		}
		conns[j.lane] = j.conn
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for it: %w", ctx.Err())
	}
}
