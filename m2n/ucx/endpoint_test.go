//go:build ucx && cgo

package ucx

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n"
)

// endpoint is an m2n endpoint with a fabric, and where it listens.
func endpoint(t testing.TB, tls, id string, change func(*m2n.Config)) (*m2n.Endpoint, string) {
	t.Helper()
	f, err := Open(Config{Options: map[string]string{"TLS": tls}})
	require.NoError(t, err)
	return endpointWith(t, f, id, change)
}

func endpointWith(t testing.TB, f m2n.Fabric, id string, change func(*m2n.Config)) (*m2n.Endpoint, string) {
	t.Helper()
	cfg := m2n.Config{ID: id, Fabric: f, SlotBytes: 1 << 20, PeerTimeout: time.Second}
	if change != nil {
		change(&cfg)
	}
	e, err := m2n.NewEndpoint(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close(context.Background())) })
	addr, err := e.Listen(t.Context(), "ucx:127.0.0.1:0")
	require.NoError(t, err)
	return e, addr
}

func poll(t testing.TB, e *m2n.Endpoint) m2n.Completion {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := e.Poll(ctx)
	require.NoError(t, err)
	return c
}

// TestEndpoints: pairs over UCX keep m2n's promises: order, each message once, the
// bytes, the credits, and an orderly end.
func TestEndpoints(t *testing.T) {
	const messages = 300
	onAll(t, func(t *testing.T, tls string) {
		a, atA := endpoint(t, tls, "a", func(c *m2n.Config) { c.Queue = messages })
		b, atB := endpoint(t, tls, "b", func(c *m2n.Config) { c.Queue = messages })
		require.NoError(t, a.SetPeer("b", atB, 0))
		require.NoError(t, b.SetPeer("a", atA, 0))
		source := random(8, 2<<20)
		region := a.Register(source.Bytes, nil)
		post := func(e *m2n.Endpoint, to string, i int) {
			body, _ := cut(region, sizeOf(i), i%5)
			_, err := e.Post(to, m2n.Message{Header: binary.LittleEndian.AppendUint64(nil, uint64(i)), Body: body})
			require.NoError(t, err)
		}
		for i := range messages {
			post(a, "b", i)
			post(b, "a", i)
		}
		var both sync.WaitGroup
		for _, e := range []*m2n.Endpoint{a, b} {
			both.Go(func() { take(t, e, region, messages) })
		}
		both.Wait()
		require.Equal(t, "ucx", a.Stats()[0].Transport)
		require.NoError(t, a.Close(t.Context()))
		c := poll(t, b)
		require.Equal(t, m2n.Lost, c.Kind)
		require.ErrorIs(t, c.Err, m2n.ErrClosed)
	})
}

// sizeOf is how long message i is: the sizes go round.
func sizeOf(i int) int {
	if i%5 == 0 {
		return 0 // it has no spans
	}
	return []int{0, 100, 9000, 70_000, 1 << 20}[i/5%5]
}

func take(t *testing.T, e *m2n.Endpoint, source *m2n.Region, messages int) {
	for received, sent := 0, 0; received < messages || sent < messages; {
		c := poll(t, e)
		require.NoError(t, c.Err)
		if c.Kind == m2n.Sent {
			sent++
			continue
		}
		require.Equal(t, uint64(received), binary.LittleEndian.Uint64(c.Header))
		_, want := cut(source, sizeOf(received), received%5)
		require.Len(t, c.Body, received%5)
		require.Equal(t, want, bytesOf(c.Body))
		e.Release(c)
		received++
	}
}

// TestMesh: three senders and three receivers, every one to every other.
func TestMesh(t *testing.T) {
	const n, messages = 3, 40
	var senders, receivers [n]*m2n.Endpoint
	var atReceivers [n]string
	for i := range n {
		senders[i], _ = endpoint(t, "tcp", fmt.Sprint("s", i), func(c *m2n.Config) { c.Queue = messages })
		receivers[i], atReceivers[i] = endpoint(t, "tcp", fmt.Sprint("r", i), func(c *m2n.Config) { c.Slots = 3 })
	}
	var all sync.WaitGroup
	for i := range n {
		for j := range n {
			require.NoError(t, senders[i].SetPeer(fmt.Sprint("r", j), atReceivers[j], 0))
			require.NoError(t, receivers[j].SetPeer(fmt.Sprint("s", i), "", 0))
		}
		all.Go(func() { sendToAll(t, senders[i], n, messages) })
		all.Go(func() { receiveFromAll(t, receivers[i], n*messages) })
	}
	all.Wait()
}

func sendToAll(t *testing.T, e *m2n.Endpoint, n, messages int) {
	region := e.Register(random(10, 200_000).Bytes, nil)
	for i := range messages {
		for j := range n {
			body, _ := cut(region, i*4000, 3)
			_, err := e.Post(fmt.Sprint("r", j), m2n.Message{Header: []byte{byte(i)}, Body: body})
			require.NoError(t, err)
		}
	}
	for range n * messages {
		c := poll(t, e)
		require.Equal(t, m2n.Sent, c.Kind)
		require.NoError(t, c.Err)
	}
}

func receiveFromAll(t *testing.T, e *m2n.Endpoint, messages int) {
	region := random(10, 200_000)
	next := map[string]byte{}
	for range messages {
		c := poll(t, e)
		require.Equal(t, m2n.Received, c.Kind)
		require.Equal(t, []byte{next[c.Peer]}, c.Header)
		_, want := cut(region, int(next[c.Peer])*4000, 3)
		require.Equal(t, want, bytesOf(c.Body))
		next[c.Peer]++
		e.Release(c)
	}
}

func bytesOf(body []m2n.Span) (all []byte) {
	for _, s := range body {
		all = append(all, s.Bytes()...)
	}
	return all
}

// TestIncarnations: peers come and go, and leave no connection and no memory.
func TestIncarnations(t *testing.T) {
	opened, err := Open(Config{Options: map[string]string{"TLS": "tcp"}})
	require.NoError(t, err)
	f := opened.(*Fabric)
	a, atA := endpointWith(t, f, "a", nil)
	region := a.Register(random(11, 300_000).Bytes, nil)
	for epoch := range uint64(20) {
		b, atB := endpoint(t, "tcp", "b", func(c *m2n.Config) { c.Epoch = epoch })
		require.NoError(t, b.SetPeer("a", atA, 0))
		require.NoError(t, a.SetPeer("b", atB, epoch))
		_, err := a.Post("b", m2n.Message{Body: []m2n.Span{{Region: region, Len: 300_000}}})
		require.NoError(t, err)
		require.Equal(t, m2n.Received, poll(t, b).Kind)
		require.Equal(t, m2n.Sent, poll(t, a).Kind)
		require.NoError(t, b.Close(t.Context()))
		require.ErrorIs(t, poll(t, a).Err, m2n.ErrClosed)
	}
	require.Eventually(t, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.conns) == 0 && len(f.memory) == 1 && len(f.sends.free) == len(f.sends.all)
	}, patience, time.Millisecond)
}

const endpointVariable = "M2N_UCX_TEST_ENDPOINT"

// otherEndpoint is a peer "p" of e in a process of its own, which sends back what
// it gets.
func otherEndpoint(t testing.TB, e *m2n.Endpoint, tls, addr string) *os.Process {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestOtherEndpoint$")
	cmd.Env = append(os.Environ(), endpointVariable+"="+tls+" "+addr)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone already
		_ = cmd.Wait()         // its status says how it was killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, e.SetPeer("p", strings.TrimSpace(line), 0))
	return cmd.Process
}

// TestOtherEndpoint is no test but the other process.
func TestOtherEndpoint(t *testing.T) {
	tls, addr, ok := strings.Cut(os.Getenv(endpointVariable), " ")
	if !ok {
		t.Skip("it runs in a process of its own, for other tests")
	}
	p, at := endpoint(t, tls, "p", nil)
	require.NoError(t, p.SetPeer("e", addr, 0))
	scheme, _, _ := strings.Cut(addr, ":")
	_, err := fmt.Println(scheme + strings.TrimPrefix(at, "ucx"))
	require.NoError(t, err)
	held := map[uint64]m2n.Completion{}
	for c := poll(t, p); c.Kind != m2n.Lost; c = poll(t, p) {
		if c.Kind == m2n.Sent {
			p.Release(held[c.Token])
			delete(held, c.Token)
			continue
		}
		token, err := p.Post("e", m2n.Message{Header: c.Header, Body: c.Body})
		require.NoError(t, err)
		held[token] = c
	}
}

// TestEndpointKilled: a peer that dies or is stopped in the middle of messages is
// Lost within the time that the pair has for it, and each post is reported, over
// TCP; UCX's shared memory holds posts back until the endpoint is closed.
func TestEndpointKilled(t *testing.T) {
	for name, stop := range map[string]func(*os.Process) error{
		"killed":  (*os.Process).Kill,
		"stopped": func(p *os.Process) error { return p.Signal(syscall.SIGSTOP) },
	} {
		t.Run(name, func(t *testing.T) {
			e, at := endpoint(t, "tcp", "e", nil)
			p := otherEndpoint(t, e, "tcp", at)
			_, err := e.Post("p", m2n.Message{Header: []byte("first")})
			require.NoError(t, err)
			for kinds := map[m2n.Kind]int{}; kinds[m2n.Sent] == 0 || kinds[m2n.Received] == 0; {
				c := poll(t, e)
				require.NoError(t, c.Err)
				kinds[c.Kind]++
				e.Release(c)
			}
			region := e.Register(random(9, 1<<20).Bytes, nil)
			const posts = 40
			for range posts {
				_, err := e.Post("p", m2n.Message{Body: []m2n.Span{{Region: region, Len: 1 << 20}}})
				require.NoError(t, err)
			}
			require.NoError(t, stop(p))
			began, sent, lost := time.Now(), 0, false
			for sent < posts || !lost {
				switch c := poll(t, e); c.Kind {
				case m2n.Sent:
					sent++
				case m2n.Lost:
					lost = true
					t.Logf("lost after %v: %v", time.Since(began).Round(time.Millisecond), c.Err)
				case m2n.Received:
					e.Release(c)
				}
			}
			require.Less(t, time.Since(began), 3*time.Second)
			_, err = e.Post("p", m2n.Message{})
			var failed *m2n.LostError
			require.ErrorAs(t, err, &failed)
		})
	}
}
