package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Figures draws reports by a program of bench/peers.
type Figures struct {
	program string
	folder  string // of a program that was built
}

// drawTimeout bounds drawing.
const drawTimeout = 2 * time.Minute

// OpenFigures finds or builds the program, which takes up to five minutes where
// its modules have to be downloaded. It fails, and says how to get it, where there
// is none.
func OpenFigures(ctx context.Context) (*Figures, error) {
	folder, err := os.MkdirTemp("", "tandem-bench-")
	if err != nil {
		return nil, fmt.Errorf("folder for programs: %w", err)
	}
	program, err := peer(ctx, folder, figuresProgram)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	return &Figures{program, folder}, nil
}

// Draw draws what the rows have into a folder, and returns the files that it
// wrote: figure5.svg (one sender, many receivers), figure11.svg (sizes, where
// senders are as many as receivers) and figure12.svg (numbers of both). A figure
// needs two points.
func (f *Figures) Draw(ctx context.Context, r *Report, dir string) (files []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, drawTimeout)
	defer cancel()
	var rows, said, failed bytes.Buffer
	if err := r.WriteJSON(&rows); err != nil {
		return nil, fmt.Errorf("figures: %w", err)
	}
	cmd := exec.CommandContext(ctx, f.program, dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &rows, &said, &failed, time.Second
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", f.program, dir, err, strings.TrimSpace(failed.String()))
	}
	return strings.FieldsFunc(said.String(), func(r rune) bool { return r == '\n' }), nil
}

// Close removes a program that was built.
func (f *Figures) Close() error { return os.RemoveAll(f.folder) }
