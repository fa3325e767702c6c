package m2n

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n/crc32c"
)

// BenchmarkRoundTrip: a message there and one of the same size back, between two
// goroutines of one process. raw is the same over a bare TCP connection, crc over one with
// checksums; park and spin are the two ways in which Poll waits.
func BenchmarkRoundTrip(b *testing.B) {
	for _, size := range []int{4 << 10, 256 << 10} {
		for _, way := range []struct {
			name string
			run  func(*testing.B, int)
		}{
			{"inproc-park", func(b *testing.B, n int) { pingPong(b, n, duo, 0) }},
			{"inproc-spin", func(b *testing.B, n int) { pingPong(b, n, duo, 50*time.Microsecond) }},
			{"tcp", func(b *testing.B, n int) { pingPong(b, n, tcpDuo, 0) }},
			{"raw", func(b *testing.B, n int) { rawPingPong(b, n, false) }},
			{"crc", func(b *testing.B, n int) { rawPingPong(b, n, true) }},
		} {
			b.Run(fmt.Sprintf("%s/%dKB", way.name, size>>10), func(b *testing.B) { way.run(b, size) })
		}
	}
}

func pingPong(b *testing.B, size int, make func(testing.TB, func(*Config)) (x, y *Endpoint), spin time.Duration) {
	x, y := make(b, func(c *Config) { c.SpinFor = spin })
	transfer(b, x, y)
	b.SetBytes(int64(2 * size))
	done := async(func() error { return answer(y, "a", size, b.N) })
	b.ResetTimer()
	region := x.Register(zeros(size), nil)
	for range b.N {
		require.NoError(b, ask(x, "b", Message{Body: []Span{{region, 0, size}}}))
	}
	b.StopTimer()
	require.NoError(b, <-done)
}

func async(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// ask posts and waits for an answer.
func ask(e *Endpoint, peer string, m Message) error {
	if _, err := e.Post(peer, m); err != nil {
		return err
	}
	return takeOne(e)
}

func takeOne(e *Endpoint) error {
	for {
		c, err := e.Poll(context.Background())
		switch {
		case err != nil:
			return err
		case c.Kind == Lost:
			return c.Err
		case c.Kind == Received:
			e.Release(c)
			return nil
		}
	}
}

func answer(e *Endpoint, peer string, size, n int) error {
	region := e.Register(zeros(size), nil)
	for range n {
		if err := takeOne(e); err != nil {
			return err
		}
		if _, err := e.Post(peer, Message{Body: []Span{{region, 0, size}}}); err != nil {
			return err
		}
	}
	return nil
}

func rawPingPong(b *testing.B, size int, sums bool) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer l.Close()
	x, err := net.Dial("tcp", l.Addr().String())
	require.NoError(b, err)
	defer x.Close()
	y, err := l.Accept()
	require.NoError(b, err)
	defer y.Close()
	b.SetBytes(int64(2 * size))
	done := async(func() error {
		buf := zeros(size)
		for range b.N {
			if err := rawTurn(y, buf, sums, false); err != nil {
				return err
			}
		}
		return nil
	})
	buf := zeros(size)
	for range b.N {
		require.NoError(b, rawTurn(x, buf, sums, true))
	}
	require.NoError(b, <-done)
}

// BenchmarkHandOff: the time from a post to the other end's Poll, where the poster goes on
// computing for 100 µs, so that poster or receiver has to move to another core. Go's
// scheduler moves the receiver after some 70 µs; a poster that yields moves at once.
func BenchmarkHandOff(b *testing.B) {
	for _, way := range []struct {
		name string
		make func(testing.TB, func(*Config)) (x, y *Endpoint)
		spin time.Duration
		post func()
	}{
		{"inproc-park", duo, 0, func() {}}, {"inproc-yield", duo, 0, runtime.Gosched},
		{"inproc-spin", duo, time.Millisecond, func() {}},
		{"tcp-park", tcpDuo, 0, func() {}}, {"tcp-yield", tcpDuo, 0, runtime.Gosched},
	} {
		b.Run(way.name, func(b *testing.B) {
			x, y := way.make(b, func(c *Config) {
				c.Queue = 1 << 20
				if c.ID == "b" {
					c.SpinFor = way.spin
				}
			})
			transfer(b, x, y)
			took := make([]time.Duration, b.N)
			done := async(func() error { return noteDelays(y, took) })
			for range b.N {
				postAndCompute(b, x, way.post)
			}
			require.NoError(b, <-done)
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2])/1e3, "median-µs")
			b.ReportMetric(float64(took[len(took)*99/100])/1e3, "p99-µs")
		})
	}
}

// postAndCompute posts the time, and keeps the core busy.
func postAndCompute(b *testing.B, e *Endpoint, after func()) {
	begin := now()
	_, err := e.Post("b", Message{Header: binary.LittleEndian.AppendUint64(nil, uint64(begin))})
	require.NoError(b, err)
	after()
	for now()-begin < 100*time.Microsecond {
		e.TryPoll()
	}
}

func noteDelays(e *Endpoint, took []time.Duration) error {
	for i := range took {
		c, err := e.Poll(context.Background())
		if err != nil {
			return err
		}
		took[i] = now() - time.Duration(binary.LittleEndian.Uint64(c.Header))
		e.Release(c)
	}
	return nil
}

// rawTurn writes and reads, or reads and writes.
func rawTurn(c net.Conn, buf []byte, sums, first bool) error {
	write := func() error {
		if sums {
			_ = crc32c.Update(0, buf) // its time is what is wanted
		}
		_, err := c.Write(buf)
		return err
	}
	read := func() error {
		_, err := io.ReadFull(c, buf)
		if sums {
			_ = crc32c.Update(0, buf)
		}
		return err
	}
	if first {
		return firstError(write, read)
	}
	return firstError(read, write)
}
