//go:build linux

package m2n_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n"
)

// A node's job is in its environment. The node says "ready", reads when to
// measure, works until then, says what it found as a line of JSON, and ends when
// its standard input does: so that nobody is lost to those who still measure.
const (
	nodeKind = "M2N_NETNS_KIND"
	nodeJob  = "M2N_NETNS_JOB"
)

// TestNetworkNode is no test but a process of one.
func TestNetworkNode(t *testing.T) {
	job := []byte(os.Getenv(nodeJob))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	switch os.Getenv(nodeKind) {
	case "exchange":
		runExchange(t, ctx, parse[exchangeJob](t, job))
	case "credits":
		runCredits(t, ctx, parse[creditsJob](t, job))
	case "bands":
		runBands(t, ctx, parse[bandsJob](t, job))
	default:
		t.Skip("it runs in a process of its own, for the tests of shaped links")
	}
}

func parse[T any](t *testing.T, text []byte) (job T) {
	require.NoError(t, json.Unmarshal(text, &job))
	return job
}

// monotonic is the clock that processes of one machine share.
func monotonic() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err) // every Linux has it
	}
	return time.Duration(now.Nano())
}

// begin says that this node is ready, and hears when to measure.
func begin(t *testing.T) (from, until time.Duration) {
	say(t, "ready")
	_, err := fmt.Fscanln(os.Stdin, &from, &until)
	require.NoError(t, err)
	return from, until
}

func say(t *testing.T, line string) {
	_, err := os.Stdout.WriteString(line + "\n")
	require.NoError(t, err)
}

// finish says what was found, and waits for the others.
func finish(t *testing.T, report any) {
	text, err := json.Marshal(report)
	require.NoError(t, err)
	say(t, string(text))
	_, err = io.Copy(io.Discard, os.Stdin)
	require.NoError(t, err)
}

// leave closes an endpoint without waiting for what is still to be sent: nobody
// measures any more.
func leave(e *m2n.Endpoint) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = e.Close(ctx) // it says what was not sent
}

// exchangeJob is an endpoint that keeps some messages in flight to each of some
// peers, and counts what it receives.
type exchangeJob struct {
	ID, Listen      string
	Peers           map[string]string // addresses by id; "" where the peer dials
	SendTo          []string
	Bytes, InFlight int // of a message; messages to each peer
}

// exchangeReport is what arrived while it measured, and since the beginning, in
// bytes.
type exchangeReport struct{ Received, Total int }

func runExchange(t *testing.T, ctx context.Context, job exchangeJob) {
	e, err := m2n.NewEndpoint(m2n.Config{ID: job.ID, PeerTimeout: 10 * time.Second, DialTimeout: 10 * time.Second})
	require.NoError(t, err)
	defer leave(e)
	if job.Listen != "" {
		_, err = e.Listen(ctx, job.Listen)
		require.NoError(t, err)
	}
	for id, addr := range job.Peers {
		require.NoError(t, e.SetPeer(id, addr, 0))
	}
	from, until := begin(t)
	s := &shuttle{t: t, Endpoint: e, message: m2n.Message{Body: []m2n.Span{{Region: e.Register(make([]byte, job.Bytes), nil), Len: job.Bytes}}}}
	for _, peer := range job.SendTo {
		for range job.InFlight {
			s.send(peer)
		}
	}
	received := s.run(ctx, from, until)
	for _, peer := range e.Stats() {
		if peer.State == "up" {
			require.Equal(t, "tcp", peer.Transport, "peer %s", peer.Peer)
		}
	}
	finish(t, exchangeReport{Received: received, Total: s.total})
}

// shuttle is an endpoint that posts a message for each that is sent, and releases
// what it receives.
type shuttle struct {
	*m2n.Endpoint
	t        *testing.T
	message  m2n.Message
	released []time.Duration // when
	total    int             // bytes that arrived until the end of the window
}

func (s *shuttle) send(peer string) {
	_, err := s.Post(peer, s.message)
	require.NoError(s.t, err)
}

// settle is how long nodes go on after they have measured, so that what is under
// way then still arrives.
const settle = 300 * time.Millisecond

// run works until some time after the end of a window, and counts the bytes that
// arrive in it.
func (s *shuttle) run(ctx context.Context, from, until time.Duration) (received int) {
	ctx, cancel := context.WithTimeout(ctx, until+settle-monotonic())
	defer cancel()
	for {
		c, err := s.Poll(ctx)
		if err != nil {
			require.ErrorIs(s.t, err, context.DeadlineExceeded)
			return received
		}
		require.NoError(s.t, c.Err)
		switch c.Kind {
		case m2n.Sent:
			s.send(c.Peer)
		case m2n.Received:
			now := monotonic()
			if now < until {
				s.total += c.Body[0].Len
			}
			if now >= from && now < until {
				received += c.Body[0].Len
			}
			s.released = append(s.released, now)
			s.Release(c)
		}
	}
}

// creditsJob is some endpoints, each with one peer at the other end of the link,
// that send all the time in both directions.
type creditsJob struct {
	Name, Peer     string
	Host, PeerHost string
	Pairs, Bytes   int
	Pace           int
	Congestion     string
}

// creditsReport has, for each pair, when this end released its k-th message, and
// when it could use the k-th credit that came back.
type creditsReport struct {
	Received int
	Released [][]time.Duration
	Credited [][]time.Duration
}

// creditSlots is so small that each credit is urgent: none waits for others.
const creditSlots = 1

func runCredits(t *testing.T, ctx context.Context, job creditsJob) {
	shuttles := make([]*shuttle, job.Pairs)
	for i := range shuttles {
		e, err := m2n.NewEndpoint(m2n.Config{ID: fmt.Sprint(job.Name, i), Slots: creditSlots, PeerTimeout: 10 * time.Second, DialTimeout: 10 * time.Second,
			Pace: job.Pace, Congestion: job.Congestion})
		require.NoError(t, err)
		defer leave(e)
		_, err = e.Listen(ctx, fmt.Sprintf("tcp:%s:%d", job.Host, 7000+i))
		require.NoError(t, err)
		require.NoError(t, e.SetPeer(fmt.Sprint(job.Peer, i), fmt.Sprintf("tcp:%s:%d", job.PeerHost, 7000+i), 0))
		shuttles[i] = &shuttle{t: t, Endpoint: e, message: m2n.Message{Body: []m2n.Span{{Region: e.Register(make([]byte, job.Bytes), nil), Len: job.Bytes}}}}
	}
	from, until := begin(t)
	var all sync.WaitGroup
	var received atomic.Int64
	for i, s := range shuttles {
		all.Go(func() {
			for range 2 * creditSlots { // some always wait for a credit
				s.send(fmt.Sprint(job.Peer, i))
			}
			received.Add(int64(s.run(ctx, from, until)))
		})
	}
	credited := watchCredits(shuttles, until+settle)
	all.Wait()
	report := creditsReport{Received: int(received.Load()), Credited: credited}
	for _, s := range shuttles {
		report.Released = append(report.Released, s.released)
	}
	finish(t, report)
}

// watchCredits looks at the endpoints' counters again and again, and notes when
// each credit is there. A message takes one, so those that came back are those
// that are there and those that were taken, but for the first ones.
func watchCredits(shuttles []*shuttle, until time.Duration) [][]time.Duration {
	credited := make([][]time.Duration, len(shuttles))
	for monotonic() < until {
		for i, s := range shuttles {
			peer := s.Stats()[0]
			now := monotonic()
			if peer.State != "up" {
				continue
			}
			back := peer.Credit + int(peer.QueueTime.Count) - creditSlots
			for len(credited[i]) < back {
				credited[i] = append(credited[i], now)
			}
		}
		pause := unix.NsecToTimespec(50_000)
		_ = unix.Nanosleep(&pause, nil) // a signal may end it early
	}
	return credited
}

// bandsJob is an end of some plain connections. The end that dials says how many
// carry data in both directions; one more has SO_PRIORITY 6 and carries a time
// stamp each millisecond, both ways.
type bandsJob struct {
	Listen, Dial string
	Bulk         int
}

// bandsReport has the bytes of data, and how long the time stamps travelled.
type bandsReport struct {
	Received int
	Travel   []time.Duration
}

func runBands(t *testing.T, ctx context.Context, job bandsJob) {
	conns := bandsConns(t, ctx, job)
	from, until := begin(t)
	for _, c := range conns {
		require.NoError(t, c.SetDeadline(time.Now().Add(until-monotonic())))
		defer c.Close()
	}
	var all sync.WaitGroup
	var received atomic.Int64
	for _, c := range conns[1:] {
		all.Go(func() {
			for piece := make([]byte, 256<<10); ; {
				if _, err := c.Write(piece); err != nil {
					return
				}
			}
		})
		all.Go(func() {
			for piece := make([]byte, 256<<10); ; {
				n, err := c.Read(piece)
				if err != nil {
					return
				}
				if now := monotonic(); now >= from && now < until {
					received.Add(int64(n))
				}
			}
		})
	}
	all.Go(func() { stamp(conns[0]) })
	travel := stamped(conns[0], from)
	all.Wait()
	finish(t, bandsReport{int(received.Load()), travel})
}

// stamp writes a time stamp each millisecond until the connection's deadline.
func stamp(c net.Conn) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if err := binary.Write(c, binary.LittleEndian, int64(monotonic())); err != nil {
			return
		}
	}
}

// stamped reads time stamps until the connection's deadline.
func stamped(c net.Conn, from time.Duration) (travel []time.Duration) {
	for r := bufio.NewReader(c); ; {
		var sent int64
		if err := binary.Read(r, binary.LittleEndian, &sent); err != nil {
			return travel
		}
		if now := monotonic(); time.Duration(sent) >= from {
			travel = append(travel, now-time.Duration(sent))
		}
	}
}

// bandsConns connects: the first is the marked one. One byte tells the end that
// listens how many follow.
func bandsConns(t *testing.T, ctx context.Context, job bandsJob) (conns []net.Conn) {
	if job.Dial != "" {
		for i := range 1 + job.Bulk {
			d := net.Dialer{}
			if i == 0 {
				d.Control = markUrgent
			}
			c, err := d.DialContext(ctx, "tcp", job.Dial)
			require.NoError(t, err)
			conns = append(conns, c)
		}
		_, err := conns[0].Write([]byte{byte(job.Bulk)})
		require.NoError(t, err)
		return conns
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", job.Listen)
	require.NoError(t, err)
	defer l.Close()
	say(t, "ready")
	bulk := []byte{0}
	for len(conns) < 1+int(bulk[0]) {
		c, err := l.Accept()
		require.NoError(t, err)
		conns = append(conns, c)
		if len(conns) == 1 {
			raw, err := c.(syscall.Conn).SyscallConn()
			require.NoError(t, err)
			require.NoError(t, markUrgent("", "", raw))
			_, err = io.ReadFull(c, bulk)
			require.NoError(t, err)
		}
	}
	return slices.Clip(conns)
}

// markUrgent sets SO_PRIORITY 6, the highest that needs no privilege.
func markUrgent(_, _ string, raw syscall.RawConn) error {
	var err error
	if cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, 6)
	}); cerr != nil {
		return cerr
	}
	return err
}
