package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// keyboard is a terminal with a program in front of somebody who types.
type keyboard struct {
	t      *testing.T
	master *os.File
	shown  chan string
	all    strings.Builder // what was shown
	seen   int             // how much of it has been looked at
	done   chan error
	kill   func()
}

// atTerminal starts the program at a terminal of 80 columns, which controls it.
func atTerminal(t *testing.T, env []string, args ...string) *keyboard {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals: %v", err)
	}
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}))
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	defer slave.Close()
	c := command(t.Context(), args, append([]string{"TERM=xterm"}, env...)...)
	c.Stdin, c.Stdout, c.Stderr = slave, slave, slave
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(t, c.Start())
	k := &keyboard{t: t, master: master, shown: make(chan string, 1024), done: make(chan error, 1),
		kill: func() { _ = c.Process.Kill() }}
	go func() {
		defer close(k.shown)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if strings.Contains(string(buf[:n]), "\x1b[6n") { // where is the cursor?
				_, _ = io.WriteString(master, "\x1b[1;1R")
			}
			if n > 0 {
				k.shown <- string(buf[:n])
			}
			if err != nil {
				return // EIO: the program has closed the terminal
			}
		}
	}()
	go func() { k.done <- c.Wait() }()
	t.Cleanup(func() {
		k.kill()
		_ = master.Close()
		for range k.shown { // until the reader has ended
		}
		if t.Failed() {
			t.Logf("on the terminal: %q", k.all.String())
		}
	})
	return k
}

// keys are typed.
func (k *keyboard) keys(text string) {
	k.t.Helper()
	_, err := io.WriteString(k.master, text)
	require.NoError(k.t, err)
}

// sees waits until something is shown that matches, behind what was seen before.
func (k *keyboard) sees(pattern string) {
	k.t.Helper()
	re, late := regexp.MustCompile(pattern), time.After(patience)
	for {
		if at := re.FindStringIndex(k.all.String()[k.seen:]); at != nil {
			k.seen += at[1]
			return
		}
		select {
		case text, open := <-k.shown:
			if !open {
				k.t.Fatalf("it ended without showing %q", pattern)
			}
			k.all.WriteString(text)
		case <-late:
			k.t.Fatalf("it does not show %q", pattern)
		}
	}
}

// ends waits for the program's end.
func (k *keyboard) ends() error {
	k.t.Helper()
	select {
	case err := <-k.done:
		return err
	case <-time.After(patience):
		k.t.Fatal("it does not end")
		return nil
	}
}

// TestChatAtATerminal: lines are edited, Ctrl-C ends an answer and not the program,
// a failure neither, Ctrl-D does, and the next conversation has the history.
func TestChatAtATerminal(t *testing.T) {
	state := t.TempDir()
	env := []string{"XDG_STATE_HOME=" + state}
	k := atTerminal(t, env, "chat", small, "--temperature", "0", "--max-tokens", "1900", "--threads", "1")
	k.sees("> ")
	k.keys("\x03")
	k.sees("Ctrl-D ends")
	k.keys("unc main() {\x01f\x05\r") // Ctrl-A, and the letter that was missing
	k.sees(`func main\(\) \{[^>]*\n[^>]+`)
	k.keys("\x03")
	k.sees("> ")
	k.keys("package main\r")
	k.sees(`package main[^>]*\n[^>]+`)
	k.keys("\x03")
	k.sees("> ")
	k.keys("\x04")
	require.NoError(t, k.ends())
	text, err := os.ReadFile(filepath.Join(state, "tandem", "chat-history"))
	require.NoError(t, err)
	require.Equal(t, "func main() {\npackage main\n", string(text))

	k = atTerminal(t, env, "chat", "--url", "http://"+freeAddr(t), "--model", "m")
	k.sees("> ")
	k.keys("\x1b[A\x1b[A") // two up
	k.sees(`func main\(\) \{`)
	k.keys("\r")
	k.sees("connection refused")
	k.sees("> ")
	k.keys("\x04")
	require.NoError(t, k.ends())
}

// TestChatAtAPlainTerminal: one that cannot move its cursor is asked line by line.
func TestChatAtAPlainTerminal(t *testing.T) {
	k := atTerminal(t, []string{"TERM=dumb", "XDG_STATE_HOME=" + t.TempDir()}, "chat", "--url", "http://"+freeAddr(t),
		"--model", "m")
	k.sees("> ")
	k.keys("hello\n")
	k.sees("connection refused")
	k.sees("> ")
	k.keys("\x04")
	require.NoError(t, k.ends())
}

// TestTerminalIsGivenBack: a program that is told to end leaves the terminal as it
// was.
func TestTerminalIsGivenBack(t *testing.T) {
	k := atTerminal(t, []string{"XDG_STATE_HOME=" + t.TempDir()}, "chat", "--url", "http://"+freeAddr(t), "--model",
		"m", "--no-history")
	before, err := unix.IoctlGetTermios(int(k.master.Fd()), unix.TCGETS)
	require.NoError(t, err)
	k.sees("> ")
	group, err := unix.IoctlGetInt(int(k.master.Fd()), unix.TIOCGPGRP)
	require.NoError(t, err)
	raw, err := unix.IoctlGetTermios(int(k.master.Fd()), unix.TCGETS)
	require.NoError(t, err)
	require.Zero(t, raw.Lflag&unix.ECHO)
	require.NoError(t, syscall.Kill(-group, syscall.SIGTERM))
	require.ErrorContains(t, k.ends(), "exit status 143")
	after, err := unix.IoctlGetTermios(int(k.master.Fd()), unix.TCGETS)
	require.NoError(t, err)
	require.NotZero(t, after.Lflag&unix.ECHO)
	require.Equal(t, before.Lflag|unix.ECHO|unix.ICANON, after.Lflag|unix.ECHO|unix.ICANON)
}

// TestPrintable: an answer does not control the terminal that shows it.
func TestPrintable(t *testing.T) {
	var out strings.Builder
	n, err := printable{&out}.Write([]byte("a\x1b[2Jb\tc\r\n\u009bd\x7f世\x00"))
	require.NoError(t, err)
	require.Equal(t, 18, n)
	require.Equal(t, "a[2Jb\tc\nd世", out.String())
}
