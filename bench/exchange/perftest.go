//go:build linux

package exchange

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// perftest is UCX's own measurement of one sender and one receiver: half a round
// trip of tagged messages, with its own clock and loop. It tells percentiles
// only, one a run.
type perftest struct {
	shape Shape
	layer string // UCX_TLS; empty: what UCX chooses
}

const (
	perftestProgram = "ucx_perftest"
	perftestTimeout = 2 * time.Minute
	perftestTries   = 100
)

// newPerftest refuses what ucx_perftest cannot measure.
func newPerftest(name string, s Shape) (*perftest, error) {
	if err := find(perftestProgram); err != nil {
		return nil, err
	}
	if s.Senders != 1 || s.Receivers != 1 || s.Messages != 1 {
		return nil, fmt.Errorf("%w: %s measures one sender, one receiver and one message", errUnsuited, perftestProgram)
	}
	p := &perftest{shape: s}
	if name == "ucx-tcp" {
		p.layer = "tcp"
	}
	return p, nil
}

// errUnsuited: a contestant does not do what is asked for.
var errUnsuited = errors.New("not measured")

func (p *perftest) close() error { return nil }

// measure asks for the median and for the 99th percentile, and answers with
// times that have them.
func (p *perftest) measure(ctx context.Context, iterations int) (turn, error) {
	iterations = max(iterations, 10)
	t := turn{iterations: iterations}
	for _, rank := range []struct{ percentile, fill int }{{50, 98}, {99, 2}} {
		us, err := p.run(ctx, rank.percentile, iterations)
		if err != nil {
			return turn{}, err
		}
		for range rank.fill {
			t.times = append(t.times, us/1e6)
		}
	}
	return t, nil
}

// run runs server and client once.
func (p *perftest) run(ctx context.Context, percentile, iterations int) (us float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, perftestTimeout)
	defer cancel()
	port, err := freePort(ctx)
	if err != nil {
		return 0, err
	}
	server := p.command(ctx, append(onCore(0), "-p", strconv.Itoa(port))...)
	if err := server.Start(); err != nil {
		return 0, err
	}
	defer func() {
		cancel()
		_ = server.Wait() // it was killed, or has ended with the client
	}()
	return p.client(ctx, port, percentile, iterations)
}

// client runs the client. The server does not say when it listens, and takes the
// first connection for a client's: the client tries until it is there.
func (p *perftest) client(ctx context.Context, port, percentile, iterations int) (us float64, err error) {
	args := append(onCore(1), "127.0.0.1", "-p", strconv.Itoa(port), "-t", "tag_lat", "-f", "-v",
		"-s", strconv.Itoa(p.shape.Bytes), "-n", strconv.Itoa(iterations), "-w", strconv.Itoa(max(iterations/10, 1)),
		"-R", strconv.Itoa(percentile))
	for range perftestTries {
		var text []byte
		if text, err = p.command(ctx, args...).CombinedOutput(); err == nil {
			return perftestLatency(string(text))
		}
		err = fmt.Errorf("%s %s: %w: %s", perftestProgram, strings.Join(args, " "), err, strings.TrimSpace(string(text)))
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return 0, errors.Join(err, ctx.Err())
		}
	}
	return 0, err
}

// onCore are the arguments that bind to one of the cores that there are, as MPI
// does by itself: two that spin on the same core would measure its time slices.
func onCore(i int) []string {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil || set.Count() <= i {
		return nil
	}
	for cpu := 0; ; cpu++ {
		if set.IsSet(cpu) {
			if i == 0 {
				return []string{"-c", strconv.Itoa(cpu)}
			}
			i--
		}
	}
}

func (p *perftest) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, perftestProgram, args...)
	cmd.Env = append(os.Environ(), "UCX_WARN_UNUSED_ENV_VARS=n")
	if p.layer != "" {
		cmd.Env = append(cmd.Env, "UCX_TLS="+p.layer)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

// perftestLine is a line of figures: iterations, and the percentile of the
// latency in microseconds.
var perftestLine = regexp.MustCompile(`(?m)^\s*(\d+),(\d+(?:\.\d+)?),`)

// perftestLatency reads the last line of figures.
func perftestLatency(text string) (us float64, err error) {
	all := perftestLine.FindAllStringSubmatch(text, -1)
	if len(all) == 0 {
		return 0, fmt.Errorf("%s printed no figures: %q", perftestProgram, text)
	}
	return strconv.ParseFloat(all[len(all)-1][2], 64)
}

func freePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
