//go:build ucx && cgo

package ucx

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n"
)

// The benchmarks measure this package and UCX's own ucx_perftest over the same
// transports, one after the other. A latency is half of a median round trip. Both spin,
// so that each needs a core of its own.
//
//	CGO_ENABLED=1 go test -tags ucx ./m2n/ucx -run '^$' -bench . -benchtime 2000x

var benchSizes = []int{8, 4 << 10, 256 << 10, 1 << 20}

func BenchmarkLatency(b *testing.B) {
	forEach(b, func(b *testing.B, tls string, size int) {
		b.Run("ours", func(b *testing.B) { latency(b, tls, size) })
		b.Run("endpoints", func(b *testing.B) { endpointLatency(b, tls, size, "ucx") })
		if tls == "tcp" {
			b.Run("endpointsWithout", func(b *testing.B) { endpointLatency(b, tls, size, "tcp") })
		}
		b.Run("perftest", func(b *testing.B) { perftest(b, tls, size, "ucp_am_lat") })
	})
}

func BenchmarkBandwidth(b *testing.B) {
	forEach(b, func(b *testing.B, tls string, size int) {
		b.Run("ours", func(b *testing.B) { bandwidth(b, tls, size, 1) })
		b.Run("ours64spans", func(b *testing.B) { bandwidth(b, tls, size, 64) })
		b.Run("perftest", func(b *testing.B) { perftest(b, tls, size, "ucp_am_bw") })
	})
}

func forEach(b *testing.B, bench func(b *testing.B, tls string, size int)) {
	for _, tls := range transports {
		for _, size := range benchSizes {
			b.Run(fmt.Sprintf("%s/%d", strings.ReplaceAll(tls, ",", "+"), size), func(b *testing.B) { bench(b, tls, size) })
		}
	}
}

// spin lets a fabric work until a condition holds.
func spin(b *testing.B, e *end, done func() bool) {
	for i := 0; !done(); i++ {
		step(e.fabric)
		if i%1024 == 0 {
			require.NoError(b, e.failed)
		}
	}
}

func latency(b *testing.B, tls string, size int) {
	e, _ := otherProcess(b, job{TLS: tls, Slots: 4, SlotBytes: size, Echo: true, Spin: true})
	source := random(1, size)
	require.NoError(b, e.fabric.Register(source))
	body, header := []m2n.Span{{Region: source, Len: size}}, make([]byte, 8)
	ping := func() {
		if err := e.Send(0, header, body); err != nil {
			b.Fatal(err)
		}
		spin(b, e, func() bool { return len(e.received) == 1 && len(e.sent) == 1 })
		e.Refill(e.received[0].Slot)
		e.received, e.sent = e.received[:0], e.sent[:0]
	}
	reportMedian(b, ping)
}

// endpointLatency is the same between two endpoints of m2n, which wait in Poll, by
// the fabric or by m2n's own TCP.
func endpointLatency(b *testing.B, tls string, size int, by string) {
	e, at := endpoint(b, tls, "e", nil)
	otherEndpoint(b, e, tls, strings.Replace(at, "ucx", by, 1))
	region := e.Register(random(1, size).Bytes, nil)
	body := []m2n.Span{{Region: region, Len: size}}
	ping := func() {
		_, err := e.Post("p", m2n.Message{Body: body})
		require.NoError(b, err)
		for sent, received := false, false; !sent || !received; {
			c := poll(b, e)
			require.NoError(b, c.Err)
			sent, received = sent || c.Kind == m2n.Sent, received || c.Kind == m2n.Received
			e.Release(c)
		}
	}
	reportMedian(b, ping)
}

func bandwidth(b *testing.B, tls string, size, spans int) {
	const slots, acknowledge = 64, 16
	e, _ := otherProcess(b, job{TLS: tls, Slots: slots, SlotBytes: size, Acknowledge: acknowledge, Spin: true})
	source := random(1, size+spans*64)
	require.NoError(b, e.fabric.Register(source))
	body, _ := cut(source, size, spans)
	header := make([]byte, 8)
	sent, acknowledged := 0, 0
	send := func(n int) {
		for range n {
			spin(b, e, func() bool {
				acknowledged += acknowledge * len(e.received)
				for _, ev := range e.received {
					e.Refill(ev.Slot)
				}
				e.received, e.sent = e.received[:0], e.sent[:0]
				return sent < acknowledged+slots
			})
			if err := e.Send(uint64(sent), header, body); err != nil {
				b.Fatal(err)
			}
			sent++
		}
	}
	send(2 * slots)
	b.SetBytes(int64(size))
	b.ResetTimer()
	send(b.N)
}

// perftest runs UCX's own benchmark between two processes.
func perftest(b *testing.B, tls string, size int, test string) {
	path, err := exec.LookPath("ucx_perftest")
	if err != nil {
		b.Skip("ucx_perftest (Debian: ucx-utils) is not installed")
	}
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	port := freePort(b)
	// -e and -I: it notices the end of its peer, and can be waited for, as ours, which
	// rules some protocols out.
	args := []string{"-t", test, "-s", strconv.Itoa(size), "-n", strconv.Itoa(max(b.N, 100)), "-w", "100", "-p", port, "-f", "-e", "-I"}
	server := exec.CommandContext(ctx, path, args...)
	server.Env = append(server.Environ(), "UCX_TLS="+tls, "UCX_POSIX_ERROR_HANDLING=y")
	require.NoError(b, server.Start())
	defer func() { _ = server.Wait() }() // its status says nothing more
	var out []byte
	for range 100 { // until the server listens
		client := exec.CommandContext(ctx, path, append([]string{"127.0.0.1"}, args...)...)
		client.Env = server.Env
		if out, err = client.CombinedOutput(); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	require.NoError(b, err, "%s", out)
	report(b, test, string(out))
}

// report reads the last line: iterations, latency (µs) median, average, overall,
// bandwidth (MiB/s) average, overall, and more.
func report(b *testing.B, test, out string) {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	fields := strings.Fields(lines[len(lines)-1])
	require.GreaterOrEqual(b, len(fields), 6, "%s", out)
	number := func(i int) float64 {
		v, err := strconv.ParseFloat(fields[i], 64)
		require.NoError(b, err, "%s", out)
		return v
	}
	if test == "ucp_am_lat" {
		b.ReportMetric(number(1), "µs/way")
	} else {
		b.ReportMetric(number(5)*(1<<20)/1e6, "MB/s")
	}
	b.ReportMetric(0, "ns/op")
}

// reportMedian does a round trip again and again, and reports half of the median.
func reportMedian(b *testing.B, ping func()) {
	for range 100 {
		ping()
	}
	times := make([]time.Duration, b.N)
	b.ResetTimer()
	for i := range times {
		began := time.Now()
		ping()
		times[i] = time.Since(began)
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/2e3, "µs/way")
}

func freePort(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(b, err)
	return port
}

// BenchmarkIdleProgress is the price of looking where nothing has happened.
func BenchmarkIdleProgress(b *testing.B) {
	f := open(b, "posix,self")
	var events [16]m2n.FabricEvent
	for range b.N {
		f.Progress(events[:])
	}
}
