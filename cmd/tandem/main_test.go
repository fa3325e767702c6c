package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// mainEnv makes a process of this test binary the program.
const mainEnv = "TANDEM_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// patience bounds every wait for a process: far more than it takes.
const patience = 30 * time.Second

// command is the program with arguments. Variables are added to its environment.
func command(ctx context.Context, args []string, variables ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, os.Args[0], args...)
	c.Env = append(append(os.Environ(), mainEnv+"=1"), variables...)
	return c
}

// result is what a run left.
type result struct {
	out, err string
	code     int
}

// tandem runs the program to its end.
func tandem(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	return tandemWith(t, nil, stdin, args...)
}

// tandemWith does so with variables.
func tandemWith(t *testing.T, variables []string, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := command(ctx, args, variables...)
	var out, stderr strings.Builder
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &out, &stderr
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	require.NoError(t, ctx.Err(), "tandem %q does not end:\n%s", args, &stderr)
	return result{out.String(), stderr.String(), c.ProcessState.ExitCode()}
}

// process is the program while it runs.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
	pipe io.Closer // the reader of its log

	mu   sync.Mutex
	log  strings.Builder
	news chan struct{} // closed when there is more of it
}

// start starts the program. It is killed with the test.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: command(context.Background(), args), done: make(chan struct{}), news: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	p.pipe = stderr
	go p.follow(stderr)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("tandem %q:\n%s", args, p.text())
		}
	})
	return p
}

// follow keeps what the process says until it ends.
func (p *process) follow(stderr io.Reader) {
	defer close(p.done)
	for lines := bufio.NewReader(stderr); ; {
		line, err := lines.ReadString('\n')
		p.mu.Lock()
		p.log.WriteString(line)
		close(p.news)
		p.news = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			break
		}
	}
	_ = p.cmd.Wait() // its state tells
}

// deafen closes the pipe that the process logs to, as a reader that leaves.
func (p *process) deafen() {
	p.t.Helper()
	require.NoError(p.t, p.pipe.Close())
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// says waits for a line that matches, and returns the pattern's first group.
func (p *process) says(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	late := time.After(patience)
	for {
		p.mu.Lock()
		news := p.news
		found := re.FindStringSubmatch(p.log.String())
		p.mu.Unlock()
		if found != nil {
			return found[len(found)-1]
		}
		select {
		case <-news:
		case <-p.done:
			p.t.Fatalf("it ended without saying %q", pattern)
		case <-late:
			p.t.Fatalf("it does not say %q", pattern)
		}
	}
}

// url is where a server listens, once it does, with or without nodes.
func (p *process) url() string {
	p.t.Helper()
	return p.says(`msg=(?:serving|"listening, [^"]*") url=(\S+)`)
}

// stop tells the process to stop.
func (p *process) stop() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
}

// ended waits for the process's end, and returns its state.
func (p *process) ended() *os.ProcessState {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // prints where it hangs
		<-p.done
		p.t.Fatal("it does not end")
	}
	return p.cmd.ProcessState
}

// stopped stops the process, and expects an orderly end.
func (p *process) stopped() {
	p.t.Helper()
	p.stop()
	require.Equal(p.t, 0, p.ended().ExitCode())
	require.NotContains(p.t, p.text(), "goroutine ")
}
