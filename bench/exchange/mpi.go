//go:build linux

package exchange

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

//go:embed mpi/alltoallv.c
var mpiSource []byte

// mpi is the program that was built for this run.
type mpi struct {
	program string
	dir     string // for what it leaves behind
	major   int    // Open MPI's version
}

const (
	compileTimeout = 2 * time.Minute
	versionTimeout = 20 * time.Second
)

// buildMPI compiles the end.
func buildMPI(ctx context.Context, dir string) (*mpi, error) {
	if err := find("mpicc", "mpirun"); err != nil {
		return nil, err
	}
	m := &mpi{program: filepath.Join(dir, "alltoallv"), dir: dir}
	source := m.program + ".c"
	if err := os.WriteFile(source, mpiSource, 0o600); err != nil {
		return nil, err
	}
	if _, err := output(ctx, compileTimeout, "mpicc", "-O2", "-std=gnu11", "-Wall", "-o", m.program, source); err != nil {
		return nil, err
	}
	text, err := output(ctx, versionTimeout, "mpirun", "--version")
	if err != nil {
		return nil, err
	}
	m.major, err = mpiMajor(text)
	return m, err
}

var mpiVersion = regexp.MustCompile(`\(Open MPI\) (\d+)\.`)

// mpiMajor reads what mpirun --version says.
func mpiMajor(text string) (int, error) {
	match := mpiVersion.FindStringSubmatch(text)
	if match == nil {
		return 0, fmt.Errorf("mpirun is not Open MPI's: %q", strings.TrimSpace(text))
	}
	return strconv.Atoi(match[1])
}

// args are those of mpirun for a byte transfer layer, "shm" or "tcp".
func (m *mpi) args(layer string, s Shape, page string) []string {
	btl := "self,tcp"
	if layer == "shm" {
		btl = "self,vader"
		if m.major >= 5 {
			btl = "self,sm"
		}
	}
	set := [][2]string{
		{"pml", "ob1"}, {"btl", btl}, {"btl_tcp_if_include", "lo"},
		// More processes than cores: those that wait must let others run.
		{"mpi_yield_when_idle", strconv.Itoa(int(word32(s.processes() > cores())))},
		// What a killed rank leaves goes with the run.
		{"orte_tmpdir_base", m.dir}, {"btl_vader_backing_directory", m.dir},
	}
	// Ranks that spin next to each other on one core would cost time slices.
	bind := "core"
	if s.processes() > cores() {
		bind = "none"
	}
	args := []string{"--allow-run-as-root", "--oversubscribe", "--bind-to", bind, "-np", strconv.Itoa(s.processes())}
	for _, v := range set {
		args = append(args, "--mca", v[0], v[1])
	}
	return append(args, m.program, page)
}

// commands is the command line of all ends: mpirun starts them.
func (m *mpi) commands(ctx context.Context, layer string, s Shape) commands {
	return func(page string) []*exec.Cmd {
		return []*exec.Cmd{exec.CommandContext(ctx, "mpirun", m.args(layer, s, page)...)}
	}
}
