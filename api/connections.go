package api

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// phase is what a connection is doing.
type phase int

const (
	// awaiting: nothing of a request has come, or the last one has been answered.
	awaiting phase = iota
	// receiving: a request comes in.
	receiving
	// working: a whole request is being answered.
	working
)

// connection is one of a server's, with what the choice of the one to drop looks
// at. The fields below the address belong to its table's lock.
type connection struct {
	net.Conn
	table *connections
	// client is whose it is: an IPv4 address, or the /64 network of an IPv6 one.
	client netip.Prefix

	phase phase
	place int // in the table; −1: it has left
	// since is when it last was done with something: connected, or answered. A
	// client that sends a byte now and then gains nothing by it.
	since time.Time
}

// Close gives its place back.
func (c *connection) Close() error {
	c.table.remove(c)
	return c.Conn.Close()
}

// connections are a server's, of which there is a bounded number: where they are
// full, a new one takes the place of the idlest. So a client that holds thousands
// shuts nobody out. Requests that are being answered lose no connection; their
// number has a bound of its own, above which only some are served.
type connections struct {
	// most is how many requests may do work at once, and reserve how many
	// connections there may be beside: half of them for work that comes with an API
	// key, the rest for what is answered at once, such as /health.
	most, reserve int
	now           func() time.Time
	dropped       func(*connection)

	mu   sync.Mutex
	all  []*connection
	held map[netip.Prefix]int
	busy int
}

func newConnections(most int, dropped func(*connection)) *connections {
	return &connections{
		most: most, reserve: max(4, most/64), now: time.Now, dropped: dropped,
		held: map[netip.Prefix]int{},
	}
}

// add takes a connection on, and drops the idlest where there are too many. It
// returns nil where all others are at work.
func (t *connections) add(conn net.Conn) *connection {
	c := &connection{Conn: conn, table: t, client: clientOf(conn.RemoteAddr()), since: t.now()}
	victim, ok := t.admit(c)
	if !ok {
		return nil
	}
	t.drop(victim)
	return c
}

// admit finds a place for a connection, and whose it was.
func (t *connections) admit(c *connection) (victim *connection, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.all) >= t.most+t.reserve {
		if victim = idlest(t.all, t.held); victim == nil {
			return nil, false
		}
	}
	c.place = len(t.all)
	t.all = append(t.all, c)
	t.held[c.client]++
	return victim, true
}

// drop closes a connection, if there is one, for the sake of others. The caller
// does not have the lock.
func (t *connections) drop(victim *connection) {
	if victim == nil {
		return
	}
	victim.abandon()
	t.dropped(victim)
}

// abandon closes a connection without a word: TLS would say goodbye first, and may
// wait for a client that does not read, while nobody else is accepted.
func (c *connection) abandon() {
	c.table.remove(c)
	conn := c.Conn
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = secure.NetConn()
	}
	_ = conn.Close() // its client hears of it
}

// shed drops the idlest, so that a file descriptor comes free.
func (t *connections) shed() {
	t.mu.Lock()
	victim := idlest(t.all, t.held)
	t.mu.Unlock()
	t.drop(victim)
}

func (t *connections) remove(c *connection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.place < 0 {
		return
	}
	t.enter(c, awaiting)
	last := t.all[len(t.all)-1]
	t.all[c.place], last.place = last, c.place
	t.all[len(t.all)-1] = nil
	t.all = t.all[:len(t.all)-1]
	c.place = -1
	if t.held[c.client]--; t.held[c.client] == 0 {
		delete(t.held, c.client)
	}
}

// enter changes a connection's phase. The caller has the lock.
func (t *connections) enter(c *connection, p phase) {
	if c.phase == working {
		t.busy--
	}
	if p == working {
		t.busy++
	}
	c.phase = p
}

// observe is the server's ConnState.
func (t *connections) observe(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*connection)
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch state {
	case http.StateActive:
		t.enter(c, receiving)
	case http.StateIdle:
		t.enter(c, awaiting)
		c.since = t.now()
	}
}

// startWork says that a connection's request has come in whole, and is being answered.
// It is not where as many are as may be: limited requests do not take the places
// that are kept for others. A request without a connection of ours always works.
func (c *connection) startWork(limit int) bool {
	if c == nil {
		return true
	}
	t := c.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.busy >= limit && c.phase != working {
		return false
	}
	if c.place >= 0 {
		t.enter(c, working)
	}
	return true
}

// workLimit is how many requests that do work may be answered at once.
func (c *connection) workLimit(hasKey bool) int {
	switch {
	case c == nil:
		return 0
	case hasKey:
		return c.table.most + c.table.reserve/2
	default:
		return c.table.most
	}
}

// idlest is the connection to drop for the sake of a new one: of the client that
// holds most of all, the one that has waited for longest; of clients that hold as
// many, too. Nil: all are working.
func idlest(all []*connection, held map[netip.Prefix]int) *connection {
	var found *connection
	for _, c := range all {
		if c.phase == working {
			continue
		}
		if found == nil || held[c.client] > held[found.client] ||
			held[c.client] == held[found.client] && c.since.Before(found.since) {
			found = c
		}
	}
	return found
}

// clientOf is whose connections count together: an address, or a network of IPv6.
func clientOf(address net.Addr) netip.Prefix {
	tcp, ok := address.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap()
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	client, _ := ip.WithZone("").Prefix(bits) // an address that is not valid has none
	return client
}

// connectionKey is where a request's context has its connection.
type connectionKey struct{}

// withConnection is the server's ConnContext.
func withConnection(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*connection); ok {
		return context.WithValue(ctx, connectionKey{}, c)
	}
	return ctx
}

// connectionOf is a request's connection; nil where the server did not accept it.
func connectionOf(ctx context.Context) *connection {
	c, _ := ctx.Value(connectionKey{}).(*connection)
	return c
}
