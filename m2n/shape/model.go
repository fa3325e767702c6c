package shape

import "time"

// model is the network without clock, memory or goroutines: writes, reads and faults go
// in, actions come out. It counts bytes and does not hold them. Times are since the
// network began.
type model struct {
	cfg   Config
	now   time.Duration
	due   agenda
	paths []*path
	byEnd map[ends]*path
	out   []action
}

// action is something that the model's owner has to do.
type action struct {
	kind   actionKind
	flow   *flow // of all kinds but signalled
	bytes  int   // of left and arrived
	signal any   // of signalled: the argument of model.signal
}

type actionKind uint8

const (
	left      actionKind = iota // bytes have left the sender, whose buffer has room now
	arrived                     // bytes can be read
	finished                    // the flow's end has arrived, after its last byte
	signalled                   // a signal has arrived
)

// host is a NIC in each direction.
type host struct {
	name      string
	egress    nic
	ingress   nic
	turns     queue[*flow] // flows with a packet to send
	sending   bool
	inbox     queue[*flow] // flows with packets that have arrived
	receiving bool
	inbound   int     // flows that have bytes in the queue, or on the way to the queue
	asking    []*flow // flows that wait for a share of the queue; some of them wait no more
	cut       bool
}

// path is one direction between two hosts.
type path struct {
	from, to *host
	latency  time.Duration
	stalled  bool
	flows    []*flow  // that may have something to send when the path heals
	held     []signal // to be sent when the path heals
}

// flow is one direction of a connection.
type flow struct {
	path    *path
	pending int // bytes written that have not begun to leave
	queued  int // bytes that have begun to leave, and have not passed the receiving NIC
	unread  int // bytes that have left, and are not read yet
	end     ending
	place   place
	listed  bool           // the flow is in its receiver's list asking
	inbox   queue[*packet] // at its receiver
	last    time.Duration  // when its latest packet arrives
	lost    bool           // bytes have vanished: nothing arrives any more
	gone    bool           // abandoned
	user    any            // for the owner
}

// place is where a flow waits before it sends.
type place uint8

const (
	nowhere place = iota // the flow has nothing to send, or may not send
	asking               // the flow waits for a share of the receiver's queue
	ready                // the flow is in its sender's list turns, or sends
)

// ending is how far the end of a flow has come.
type ending uint8

const (
	open    ending = iota
	wanted         // the writer has finished
	leaving        // the end is under way
)

// signal is a message without size: a request to connect, or a reset.
type signal struct {
	path *path
	what any
	// keep has the signal wait while the path is cut or stalled, as a packet that TCP
	// sends again and again would.
	keep bool
}

// packet is some bytes of a flow that are under way.
type packet struct {
	flow *flow
	size int
	end  bool          // the flow's end follows the bytes
	tail time.Duration // when the last byte can be at the receiver
}

// ends are the two hosts of a path.
type ends struct{ from, to *host }

func newModel(cfg Config) *model { return &model{cfg: cfg, byEnd: make(map[ends]*path)} }

func (m *model) host(name string) *host { return &host{name: name} }

// path returns the path from one host to another.
func (m *model) path(from, to *host) *path {
	p := m.byEnd[ends{from, to}]
	if p != nil {
		return p
	}
	p = &path{from: from, to: to, latency: m.cfg.Latency}
	m.byEnd[ends{from, to}] = p
	m.paths = append(m.paths, p)
	return p
}

func (m *model) flow(p *path, user any) *flow {
	f := &flow{path: p, user: user}
	p.flows = append(p.flows, f)
	return f
}

// advance does everything that is due until a time, and returns the actions. They are
// valid until the next call.
func (m *model) advance(to time.Duration) []action {
	m.out = m.out[:0]
	for m.due.len() > 0 && m.due.first().at <= to {
		e := m.due.pop()
		m.now = e.at
		e.do()
	}
	m.now = max(m.now, to)
	return m.out
}

// next is when the next thing is due.
func (m *model) next() (time.Duration, bool) {
	if m.due.len() == 0 {
		return 0, false
	}
	return m.due.first().at, true
}

func (m *model) at(t time.Duration, do func()) { m.due.push(t, do) }

// write adds n bytes that are to be sent.
func (m *model) write(f *flow, n int) {
	f.pending += n
	m.consider(f)
}

// finish says that no more bytes will be written.
func (m *model) finish(f *flow) {
	if f.end == open {
		f.end = wanted
		m.consider(f)
	}
}

// read says that n of the bytes that arrived have been read.
func (m *model) read(f *flow, n int) {
	f.unread -= n
	m.consider(f)
}

// abandon ends a flow: nothing of the flow arrives any more.
func (m *model) abandon(f *flow) {
	f.gone = true
	f.pending = 0
	m.retire(f)
}

// retire removes a flow from its path's list.
func (m *model) retire(f *flow) {
	for i, g := range f.path.flows {
		if g == f {
			last := len(f.path.flows) - 1
			f.path.flows[i] = f.path.flows[last]
			f.path.flows = f.path.flows[:last]
			return
		}
	}
}

// want is the size of the packet that a flow would send now; false where the flow has
// nothing to send, or may not send.
func (m *model) want(f *flow) (int, bool) {
	if f.gone || f.path.stalled || f.pending == 0 && f.end != wanted {
		return 0, false
	}
	size := min(f.pending, m.cfg.Packet)
	return size, f.unread+size <= m.cfg.Window
}

// fits reports whether a flow's share of the receiver's queue has room for a
// packet. The flows that have bytes there have equal shares, of one packet at
// least.
func (m *model) fits(f *flow, size int) bool {
	return f.queued == 0 || (f.queued+size)*f.path.to.inbound <= m.cfg.Queue
}

// consider puts a flow that has something to send where it has to wait.
func (m *model) consider(f *flow) {
	if f.place == ready {
		return
	}
	f.place = nowhere
	size, ok := m.want(f)
	switch {
	case !ok:
	case !m.fits(f, size):
		m.ask(f)
	default:
		f.place = ready
		f.path.from.turns.push(f)
		m.transmit(f.path.from)
	}
}

// ask has a flow wait for a share of the receiver's queue.
func (m *model) ask(f *flow) {
	f.place = asking
	if !f.listed {
		f.listed = true
		f.path.to.asking = append(f.path.to.asking, f)
	}
}

// transmit has a host's sending NIC begin the next packet.
func (m *model) transmit(h *host) {
	for !h.sending && h.turns.len() > 0 {
		f := h.turns.pop()
		if size, ok := m.want(f); ok && m.fits(f, size) {
			m.send(f, size)
		} else {
			f.place = nowhere
			m.consider(f)
		}
	}
}

func (m *model) send(f *flow, size int) {
	h, p := f.path.from, &packet{flow: f, size: size}
	if f.queued == 0 && size > 0 {
		f.path.to.inbound++
	}
	f.pending -= size
	f.queued += size
	f.unread += size
	if f.pending == 0 && f.end == wanted {
		f.end, p.end = leaving, true
	}
	h.sending = true
	done := h.egress.serve(m.now, size)
	f.last = max(f.last, m.now+f.path.latency)
	p.tail = done + f.last - m.now
	m.at(done, func() { m.sent(p) })
	m.at(f.last, func() { m.arrive(p) })
}

// sent: the last byte of a packet has left.
func (m *model) sent(p *packet) {
	f, h := p.flow, p.flow.path.from
	h.sending = false
	h.egress.carried += int64(p.size)
	f.place = nowhere
	if p.size > 0 && !f.gone {
		m.out = append(m.out, action{kind: left, flow: f, bytes: p.size})
	}
	m.consider(f)
	m.transmit(h)
}

// arrive: the first byte of a packet is at the receiving NIC.
func (m *model) arrive(p *packet) {
	f, to := p.flow, p.flow.path.to
	if m.vanishes(f) {
		m.release(p)
		return
	}
	f.inbox.push(p)
	if f.inbox.len() == 1 {
		to.inbox.push(f)
	}
	m.receive(to)
}

// receive has a host's receiving NIC begin to forward the next packet, as fast as the
// packet arrives and the NIC's rate allows.
func (m *model) receive(h *host) {
	if h.receiving || h.inbox.len() == 0 {
		return
	}
	f := h.inbox.pop()
	p := f.inbox.pop()
	if f.inbox.len() > 0 {
		h.inbox.push(f)
	}
	h.receiving = true
	done := h.ingress.serve(m.now, p.size)
	m.at(max(done, p.tail), func() { m.deliver(p) })
	m.at(done, func() {
		h.receiving = false
		m.receive(h)
	})
}

// vanishes reports whether bytes of a flow are lost at this moment.
func (m *model) vanishes(f *flow) bool {
	if !f.lost && (f.path.from.cut || f.path.to.cut) {
		f.lost = true
		m.retire(f)
	}
	return f.lost || f.gone
}

// deliver: the last byte of a packet has passed the receiving NIC.
func (m *model) deliver(p *packet) {
	f := p.flow
	if !m.vanishes(f) {
		f.path.to.ingress.carried += int64(p.size)
		if p.size > 0 {
			m.out = append(m.out, action{kind: arrived, flow: f, bytes: p.size})
		}
		if p.end {
			m.out = append(m.out, action{kind: finished, flow: f})
			m.retire(f)
		}
	}
	m.release(p)
}

// release frees the room of a packet in the receiver's queue. Where the flow has no other
// bytes there, the shares of the other flows grow.
func (m *model) release(p *packet) {
	f, to := p.flow, p.flow.path.to
	f.queued -= p.size
	if p.size == 0 || f.queued > 0 {
		if f.place == asking {
			m.consider(f)
		}
		return
	}
	to.inbound--
	all := to.asking
	to.asking = nil
	for _, g := range all {
		g.listed = false
		if g.place == asking {
			m.consider(g)
		}
	}
}

// signal sends a message without size.
func (m *model) signal(p *path, what any, keep bool) {
	s := signal{path: p, what: what, keep: keep}
	m.at(m.now+p.latency, func() { m.hear(s) })
}

func (m *model) hear(s signal) {
	cut := s.path.from.cut || s.path.to.cut
	switch {
	case s.keep && (cut || s.path.stalled):
		s.path.held = append(s.path.held, s)
	case !cut:
		m.out = append(m.out, action{kind: signalled, signal: s.what})
	}
}

// heal ends all faults of a host.
func (m *model) heal(h *host) {
	h.cut = false
	for _, p := range m.paths {
		if p.from == h || p.to == h {
			m.healPath(p)
		}
	}
}

func (m *model) healPath(p *path) {
	p.stalled = false
	for _, s := range p.held {
		m.signal(p, s.what, s.keep)
	}
	p.held = nil
	for _, f := range p.flows {
		m.consider(f)
	}
}
