package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/ergochat/readline"
	"golang.org/x/term"
)

// maxMessage bounds what is typed at once, in bytes.
const maxMessage = 1 << 20

// prompt asks for a line.
const prompt = "> "

// lines are typed, or come from a file. next returns io.EOF after the last one.
type lines struct {
	interactive bool
	// interrupts are those of Ctrl-C between a line and the next one: an answer that
	// they are to end begins a moment after its line. nil: Ctrl-C is not caught.
	interrupts <-chan os.Signal
	next       func() (string, error)
	close      func()
}

// plainLines are those of a file, or of a terminal that cannot edit them: typed says
// that somebody is there, who is asked.
func plainLines(r io.Reader, typed bool) *lines {
	input := bufio.NewScanner(r)
	input.Buffer(nil, maxMessage)
	next := func() (string, error) {
		if typed {
			fmt.Fprint(os.Stderr, prompt)
		}
		if input.Scan() {
			return input.Text(), nil
		}
		if err := input.Err(); err != nil {
			return "", fmt.Errorf("reading standard input: %w", err)
		}
		return "", io.EOF
	}
	return &lines{interactive: typed, next: next, close: func() {}}
}

// editable says whether somebody types, and sees it, at a terminal that can move its
// cursor and tell where it is.
func editable() bool {
	kind := os.Getenv("TERM")
	return kind != "" && kind != "dumb" && term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd()))
}

// editedLines are edited at the terminal, with a history. The terminal is what it
// was when they are closed, by SIGTERM and SIGHUP too.
func editedLines(h *history) (*lines, error) {
	editor, err := readline.NewFromConfig(&readline.Config{
		Prompt: prompt, Stdout: os.Stderr, InterruptPrompt: "\n", EOFPrompt: "\n",
		HistoryLimit: maxHistory, DisableAutoSaveHistory: true, HistorySearchFold: true, Undo: true,
	})
	if err != nil {
		return nil, fmt.Errorf("the terminal: %w", err)
	}
	for _, line := range h.lines {
		_ = editor.SaveToHistory(line) // it writes no file
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		select {
		case s := <-ended:
			_ = editor.Close()
			os.Exit(128 + int(s.(syscall.Signal))) // as shells report it
		case <-done:
		}
	}()
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	e := &edited{editor, h}
	next := func() (string, error) {
		select {
		case <-interrupts: // it came too late for the answer before
		default:
		}
		return e.next()
	}
	return &lines{interactive: true, interrupts: interrupts, next: next, close: func() {
		signal.Stop(interrupts)
		signal.Stop(ended)
		close(done)
		_ = editor.Close()
	}}, nil
}

// edited are lines with a history.
type edited struct {
	editor  *readline.Instance
	history *history
}

// next reads a line. Ctrl-C drops what was typed of one; where nothing was, it says
// how to leave.
func (e *edited) next() (string, error) {
	for {
		line, err := e.editor.ReadLine()
		switch {
		case errors.Is(err, readline.ErrInterrupt):
			if line == "" {
				fmt.Fprintln(os.Stderr, "(Ctrl-D ends the conversation)")
			}
			continue
		case err != nil:
			fmt.Fprintln(os.Stderr)
			return "", io.EOF
		case len(line) > maxMessage:
			return "", fmt.Errorf("reading standard input: a line has more than %d bytes", maxMessage)
		}
		if strings.TrimSpace(line) != "" {
			_ = e.editor.SaveToHistory(line) // it writes no file
			e.history.add(line)
		}
		return line, nil
	}
}

// output is where answers go. What a model says may be anything: to a terminal,
// nothing goes that would control it.
func output(f *os.File) io.Writer {
	if term.IsTerminal(int(f.Fd())) {
		return printable{f}
	}
	return f
}

// printable leaves control characters out, but tabs and ends of lines.
type printable struct{ io.Writer }

func (p printable) Write(b []byte) (int, error) {
	text := strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, string(b))
	if _, err := io.WriteString(p.Writer, text); err != nil {
		return 0, err
	}
	return len(b), nil
}
