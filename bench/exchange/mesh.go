//go:build linux

package exchange

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandem-moe/tandem/m2n"
	"github.com/tandem-moe/tandem/m2n/ucx"
)

// meshPlan is m2n over one of its transports. The form of a receiver's address
// says which one its peers take.
func meshPlan(transport string) Plan {
	return Plan{
		Listen: func(ctx context.Context, self int, s Shape) (Receiver, string, error) {
			return meshListen(ctx, transport, self, s)
		},
		Connect: func(_ context.Context, self int, s Shape, addrs []string) (Sender, error) {
			return meshConnect(transport, self, s, addrs)
		},
	}
}

// meshSlots is the credit of a pair, messages in flight: m2n's default, and less of
// large ones.
func meshSlots(bytes int) int {
	switch {
	case bytes > 1<<20:
		return 2
	case bytes > 256<<10:
		return 4
	}
	return 8
}

// meshTimeout is long, so that an endpoint that waits for its turn seldom pings.
const meshTimeout = 10 * time.Minute

// meshEndpoint is one that receives messages of so many bytes.
func meshEndpoint(transport, id string, bytes, messages int) (*m2n.Endpoint, error) {
	c := m2n.Config{
		ID: id, SlotBytes: bytes, Slots: meshSlots(bytes), Queue: messages + meshSlots(bytes),
		PeerTimeout: meshTimeout, DialTimeout: handshakeTimeout,
	}
	if transport == "ucx" {
		fabric, err := ucx.Open(ucx.Config{})
		if err != nil {
			return nil, err
		}
		c.Fabric = fabric // the endpoint's from here on
	}
	return m2n.NewEndpoint(c)
}

func senderName(s int) string   { return fmt.Sprintf("sender-%d", s) }
func receiverName(r int) string { return fmt.Sprintf("receiver-%d", r) }

// meshSender is an endpoint that posts, each row from a region that is
// registered once.
type meshSender struct {
	endpoint  *m2n.Endpoint
	transport string
	peers     []string
	bodies    [][]m2n.Span
	checked   bool // whether the transport is the one that is wanted
}

func meshConnect(transport string, self int, s Shape, addrs []string) (*meshSender, error) {
	e, err := meshEndpoint(transport, senderName(self), 64, s.Messages)
	if err != nil {
		return nil, err
	}
	m := &meshSender{endpoint: e, transport: transport}
	region := e.Register(make([]byte, s.Receivers*s.Bytes), nil)
	for r, addr := range addrs {
		m.peers = append(m.peers, receiverName(r))
		m.bodies = append(m.bodies, []m2n.Span{{Region: region, Off: r * s.Bytes, Len: s.Bytes}})
		if err := e.SetPeer(m.peers[r], addr, 0); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	return m, nil
}

// Rows are parts of one region.
func (m *meshSender) Rows() [][]byte {
	var rows [][]byte
	for _, b := range m.bodies {
		rows = append(rows, b[0].Bytes())
	}
	return rows
}

// Send posts the rows and waits until all are sent.
func (m *meshSender) Send(ctx context.Context, times int) error {
	for range times {
		for r, peer := range m.peers {
			if _, err := m.endpoint.Post(peer, m2n.Message{Body: m.bodies[r]}); err != nil {
				return err
			}
		}
	}
	for sent := 0; sent < times*len(m.peers); {
		c, err := m.endpoint.Poll(ctx)
		if err == nil {
			err = c.Err
		}
		if err != nil {
			return err
		}
		if c.Kind == m2n.Sent {
			sent++
		}
	}
	return m.check()
}

// check fails where m2n chose another transport than the row's.
func (m *meshSender) check() error {
	if m.checked {
		return nil
	}
	m.checked = true
	for _, p := range m.endpoint.Stats() {
		if p.Transport != m.transport {
			return fmt.Errorf("pair with %s is connected by %q, want %q", p.Peer, p.Transport, m.transport)
		}
	}
	return nil
}

// Close closes the endpoint.
func (m *meshSender) Close() error { return closeEndpoint(m.endpoint) }

// meshReceiver is an endpoint that receives.
type meshReceiver struct {
	endpoint *m2n.Endpoint
	index    map[string]int   // of senders, by name
	held     []m2n.Completion // the last message of each, not yet released
}

func meshListen(ctx context.Context, transport string, self int, s Shape) (*meshReceiver, string, error) {
	e, err := meshEndpoint(transport, receiverName(self), s.Bytes, s.Messages)
	if err != nil {
		return nil, "", err
	}
	m := &meshReceiver{endpoint: e, index: map[string]int{}, held: make([]m2n.Completion, s.Senders)}
	for i := range s.Senders {
		m.index[senderName(i)] = i
		if err := e.SetPeer(senderName(i), "", 0); err != nil {
			return nil, "", errors.Join(err, m.Close())
		}
	}
	addr, err := e.Listen(ctx, transport+":127.0.0.1:0")
	if err != nil {
		return nil, "", errors.Join(err, m.Close())
	}
	return m, addr, nil
}

// Receive holds the last message of each sender, as one that works on it would,
// and releases those before.
func (m *meshReceiver) Receive(ctx context.Context, times int, got func(int, []byte) error) error {
	for received := 0; received < times*len(m.held); {
		c, err := m.endpoint.Poll(ctx)
		if err == nil {
			err = c.Err
		}
		if err != nil {
			return err
		}
		if c.Kind != m2n.Received {
			continue
		}
		received++
		i := m.index[c.Peer]
		m.endpoint.Release(m.held[i])
		m.held[i] = c
		if err := got(i, c.Body[0].Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// Release gives the slots of the last messages back.
func (m *meshReceiver) Release() {
	for i, c := range m.held {
		m.endpoint.Release(c)
		m.held[i] = m2n.Completion{}
	}
}

// Close closes the endpoint.
func (m *meshReceiver) Close() error { return closeEndpoint(m.endpoint) }

// closeEndpoint closes an endpoint at the end of a measurement, when nothing is
// under way. Which end is the first is chance.
func closeEndpoint(e *m2n.Endpoint) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return e.Close(ctx)
}
