package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds of the history: what is kept of earlier conversations.
const (
	maxHistory      = 1000    // lines
	maxHistoryBytes = 1 << 20 // of the file; then its older part goes
	maxHistoryLine  = 16 << 10
)

// history is what was typed, the oldest first. Without a file it is kept as long as
// the program runs.
type history struct {
	lines []string
	file  string
}

// openHistory reads the user's, in the folder for programs' state, where nobody
// else can read it.
func openHistory() (*history, error) {
	dir, err := stateFolder()
	if err != nil {
		return &history{}, err
	}
	return readHistory(filepath.Join(dir, "chat-history"))
}

// stateFolder is Tandem's, by the XDG Base Directory Specification.
func stateFolder() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "tandem"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("the history's folder: %w", err)
	}
	return filepath.Join(home, ".local", "state", "tandem"), nil
}

// readHistory reads the newest lines of a file, which need not be there.
func readHistory(file string) (*history, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return &history{}, fmt.Errorf("the history's folder: %w", err)
	}
	text, whole, err := tail(file, maxHistoryBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return &history{file: file}, nil
	}
	if err != nil {
		return &history{}, fmt.Errorf("the history: %w", err)
	}
	h := &history{file: file}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimRight(line, "\r\n"); line != "" && len(line) <= maxHistoryLine {
			h.lines = append(h.lines, line)
		}
	}
	if len(h.lines) > maxHistory || !whole {
		h.lines = h.lines[max(0, len(h.lines)-maxHistory/2):]
		err = h.rewrite()
	}
	return h, err
}

// tail reads the last bytes of a file that is readable to its owner alone from now
// on, from the beginning of a line, and says whether they are the whole file.
func tail(file string, most int64) (text []byte, whole bool, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if !info.Mode().IsRegular() {
		return nil, false, fmt.Errorf("%s is no file", file)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := f.Chmod(0o600); err != nil {
			return nil, false, err
		}
	}
	from := max(0, info.Size()-most)
	text = make([]byte, min(info.Size(), most))
	n, err := f.ReadAt(text, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	if text = text[:n]; from > 0 {
		text = text[slices.Index(text, '\n')+1:]
	}
	return text, from == 0, nil
}

// rewrite replaces the file by the lines.
func (h *history) rewrite() error {
	temp, err := os.CreateTemp(filepath.Dir(h.file), ".chat-history-*") // of mode 0600
	if err != nil {
		return fmt.Errorf("the history: %w", err)
	}
	_, err = io.WriteString(temp, strings.Join(h.lines, "\n")+"\n")
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), h.file)
	}
	if err != nil {
		_ = os.Remove(temp.Name()) // it is of no use
		return fmt.Errorf("the history: %w", err)
	}
	return nil
}

// add keeps a line. One that cannot be written is not worth an interruption.
func (h *history) add(line string) {
	if h.file == "" || len(line) > maxHistoryLine {
		return
	}
	f, err := os.OpenFile(h.file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = io.WriteString(f, strings.ReplaceAll(line, "\n", " ")+"\n")
}
