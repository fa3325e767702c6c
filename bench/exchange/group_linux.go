package exchange

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// group is a contestant whose ends share a page.
type group struct {
	name      string
	file      string // of the page
	page      *page
	shape     Shape
	spin      bool // in the barrier, in what is timed
	failed    bool // then ends wait for what will not come
	processes []*process
	exits     chan *process
}

// process is one that was started, and is waited for.
type process struct {
	name   string
	cmd    *exec.Cmd
	stderr *tail
	err    error // of its end
	ended  chan struct{}
}

// Bounds of waiting for a group.
const (
	// stall is how long a group may be without an iteration.
	stall = time.Minute
	// farewell is how long ends may take to end when they are told to.
	farewell = 5 * time.Second
)

// commands are what starts all ends, which share a page.
type commands func(page string) []*exec.Cmd

// startGroup starts a process per command line and has each byte checked once.
// The goroutine that calls it is locked to its thread, with which the processes
// die.
func startGroup(ctx context.Context, name, dir string, s Shape, spin bool, commands commands) (*group, error) {
	path := filepath.Join(dir, "page-"+name)
	p, err := createPage(path, s)
	if err != nil {
		return nil, err
	}
	g := &group{name: name, file: path, page: p, shape: s, spin: spin}
	list := commands(path)
	g.exits = make(chan *process, len(list))
	for i, cmd := range list {
		if err := g.start(fmt.Sprintf("%s, process %d", name, i), cmd); err != nil {
			g.failed = true
			return nil, errors.Join(err, g.close())
		}
	}
	if _, err := g.round(ctx, checkedIterations, false, true); err != nil {
		return nil, errors.Join(err, g.close())
	}
	g.signal(syscall.SIGSTOP)
	return g, nil
}

// checkedIterations are those in which each byte is compared.
const checkedIterations = 2

func (g *group) start(name string, cmd *exec.Cmd) error {
	p := &process{name: name, cmd: cmd, stderr: &tail{}, ended: make(chan struct{})}
	cmd.Stderr, cmd.Stdout = p.stderr, p.stderr
	cmd.WaitDelay = time.Second
	// Pdeathsig: nothing outlives this process, however it ends. A group of their
	// own keeps the terminal's interrupt from them: they end in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	g.processes = append(g.processes, p)
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
		g.exits <- p
	}()
	return nil
}

// failure is what a process's end says.
func (p *process) failure() error {
	status := "ended too early"
	if p.err != nil {
		status = p.err.Error()
	}
	if text := p.stderr.String(); text != "" {
		return fmt.Errorf("%s: %s: %s", p.name, status, text)
	}
	return fmt.Errorf("%s: %s", p.name, status)
}

// signal is for all processes. Between turns they are stopped, so that nothing
// that their libraries do beside is in the others' figures.
func (g *group) signal(s syscall.Signal) {
	for _, p := range g.processes {
		_ = p.cmd.Process.Signal(s) // one that has ended is found by wait
	}
}

// measure runs a round for times and, where the barrier spins, another one for
// processor time, in which it parks: spinning in the barrier is no work.
func (g *group) measure(ctx context.Context, iterations int) (turn, error) {
	g.signal(syscall.SIGCONT)
	defer g.signal(syscall.SIGSTOP)
	warm := max(iterations/10, 1)
	t, err := g.round(ctx, min(iterations+warm, maxRound), g.spin, false)
	if err != nil {
		return t, err
	}
	t.times = t.times[warm:]
	t.iterations = len(t.times)
	if g.spin {
		parked, err := g.round(ctx, min(max(iterations/4, 1), maxRound), false, false)
		if err != nil {
			return t, err
		}
		t.cpu, t.bytes = parked.cpu, parked.bytes
	}
	return t, nil
}

// round commands iterations and waits until all ends are done.
func (g *group) round(ctx context.Context, iterations int, spin, check bool) (turn, error) {
	p := g.page
	p.iterations, p.spin, p.check = uint32(iterations), word32(spin), word32(check)
	p.finished.Store(0)
	p.command.Add(1)
	wake(&p.command)
	if err := g.wait(ctx); err != nil {
		g.failed = true
		return turn{}, fmt.Errorf("%s, %v: %w", g.name, g.shape, err)
	}
	t := turn{iterations: iterations, times: make([]float64, iterations), bytes: float64(iterations * g.shape.total())}
	for i := range t.times {
		last := p.done[0][i]
		for _, done := range p.done {
			last = max(last, done[i])
		}
		t.times[i] = float64(last-p.starts[i]) / 1e9
	}
	for _, m := range p.members {
		t.cpu += float64(m.cpu) / 1e9
	}
	return t, nil
}

func word32(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// wait waits until all ends have finished the round, and fails where one of them
// ends or nothing moves.
func (g *group) wait(ctx context.Context) error {
	generation, since := g.page.generation.Load(), time.Now()
	for {
		finished := g.page.finished.Load()
		if int(finished) == len(g.page.members) {
			return nil
		}
		select {
		case p := <-g.exits:
			return p.failure()
		default:
		}
		glanced, cancel := context.WithTimeout(ctx, glance)
		err := waitWhile(glanced, &g.page.finished, finished)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if now := g.page.generation.Load(); now != generation {
			generation, since = now, time.Now()
		}
		if time.Since(since) > stall {
			return fmt.Errorf("no end has moved for %v: %d of %d have finished the round", stall, finished, len(g.page.members))
		}
	}
}

// close tells all processes to end, kills those that do not, or all where the
// group has failed, and waits for them.
func (g *group) close() error {
	var late []string
	if !g.failed {
		late = g.dismiss()
	}
	for _, p := range g.processes {
		_ = p.cmd.Process.Kill() // it may have ended by now
		<-p.ended
	}
	g.page.close()
	err := os.Remove(g.file)
	if len(late) > 0 {
		err = errors.Join(err, fmt.Errorf("did not end within %v: %s", farewell, strings.Join(late, "; ")))
	}
	return err
}

// dismiss tells the processes to end, and names those that do not. How they end
// says nothing: one that is still connected hears that the others left.
func (g *group) dismiss() (late []string) {
	g.signal(syscall.SIGCONT)
	g.page.stop.Store(1)
	g.page.command.Add(1)
	wake(&g.page.command)
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	for _, p := range g.processes {
		select {
		case <-p.ended:
		case <-timer.C:
			timer.Reset(0)
			late = append(late, p.name)
		}
	}
	return late
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 2 << 10

// Write keeps the last bytes.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if n := len(t.text) - tailBytes; n > 0 {
		t.text = append(t.text[:0], t.text[n:]...)
	}
	return len(b), nil
}

// String is what was kept, without blanks around it.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}

// goEnds are the command lines of ends in Go: a command, and what End or EndOf
// take.
func goEnds(ctx context.Context, end []string, transport string, s Shape) commands {
	return func(page string) []*exec.Cmd {
		var list []*exec.Cmd
		for rank := range s.processes() {
			args := append(append([]string{}, end[1:]...), page, transport, strconv.Itoa(rank))
			list = append(list, exec.CommandContext(ctx, end[0], args...))
		}
		return list
	}
}
