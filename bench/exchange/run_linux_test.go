package exchange

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n/ucx"
)

// Variables that make a process of this test binary something else: an end, or
// one that measures until it is killed.
const (
	endVariable = "EXCHANGE_TEST_END"
	runVariable = "EXCHANGE_TEST_RUN"
)

func TestMain(m *testing.M) {
	if os.Getenv(endVariable) != "" {
		os.Exit(exitCode(endOf(os.Args[1:])))
	}
	if name := os.Getenv(runVariable); name != "" {
		o := testOptions(Shape{1, 1, 4096, 1}, name)
		o.Iterations, o.Time = 1e9, time.Hour
		_, err := Run(context.Background(), o)
		os.Exit(exitCode(err))
	}
	goleak.VerifyTestMain(m)
}

func exitCode(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func endOf(args []string) error {
	rank, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	return End(context.Background(), args[0], args[1], rank)
}

// testOptions measure a shape shortly. A name is a transport, by its row, or a
// baseline.
func testOptions(s Shape, names ...string) Options {
	o := Options{
		Senders: []int{s.Senders}, Receivers: []int{s.Receivers}, Sizes: []int{s.Bytes}, Messages: []int{s.Messages},
		Iterations: 20, Repeats: 2, End: []string{"/usr/bin/env", endVariable + "=1", os.Args[0]},
	}
	for _, name := range names {
		if Ours(name) {
			o.Transports = append(o.Transports, strings.TrimPrefix(name, "m2n-"))
		} else {
			o.Baselines = append(o.Baselines, name)
		}
	}
	return o
}

// measured is what testOptions come to. Bytes are compared in each contestant's
// first round.
func measured(t *testing.T, s Shape, names ...string) *Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	report, err := Run(ctx, testOptions(s, names...))
	require.NoError(t, err)
	return report
}

// requireRows compares the rows' names, and looks for figures that cannot be.
func requireRows(t *testing.T, report *Report, names ...string) {
	t.Helper()
	var got []string
	for _, row := range report.Rows {
		got = append(got, row.Transport)
		require.Positive(t, row.MedianUS, row.Transport)
		require.GreaterOrEqual(t, row.P99US, row.MedianUS, row.Transport)
		require.Less(t, row.P99US, 5e6, row.Transport)
		require.Positive(t, row.GBps, row.Transport)
		require.GreaterOrEqual(t, row.Iterations, 2, row.Transport)
		for name, x := range row.Ratios {
			require.Positive(t, x, "%s ÷ %s", row.Transport, name)
		}
	}
	require.Equal(t, names, got)
}

// TestExchange moves bytes with everything that needs no program of others.
func TestExchange(t *testing.T) {
	for _, s := range []Shape{{1, 1, 256 << 10, 1}, {3, 2, 4096, 1}, {1, 2, 64 << 10, 16}, {2, 2, 8, 3}} {
		t.Run(s.String(), func(t *testing.T) {
			report := measured(t, s, "shm", "tcp", "raw")
			requireRows(t, report, "shm", "tcp", "raw", "raw-crc")
			for _, row := range report.Rows {
				require.Equal(t, s, row.Shape)
				require.Positive(t, *row.CPUPerGB, row.Transport)
				require.Equal(t, row.Transport != "raw", row.Ratios["raw"] > 0, row.Transport)
			}
		})
	}
}

// TestFits: all at once, one after the other, or not at all.
func TestFits(t *testing.T) {
	for _, tc := range []struct {
		each        int64
		contestants int
		atOnce      bool
		err         string
	}{
		{1 << 30, 5, true, ""},
		{1 << 30, 6, false, ""},
		{7 << 30, 1, false, ""},
		{9 << 30, 1, false, "--size: it takes some 9.0 GB, and 10.0 GB of memory are free"},
	} {
		atOnce, err := fits(tc.each, tc.contestants, 10<<30)
		require.Equal(t, tc.atOnce, atOnce)
		if tc.err == "" {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, tc.err)
		}
	}
	require.Greater(t, footprint(Shape{32, 32, 8 << 20, 1}), int64(20<<30))
	free, err := freeMemory()
	require.NoError(t, err)
	require.Greater(t, free, int64(10<<20))
}

// TestStoppedBetweenTurns: who waits for a turn does nothing.
func TestStoppedBetweenTurns(t *testing.T) {
	o := testOptions(Shape{1, 1, 64, 1}, "raw")
	s := Shape{1, 1, 64, 1}
	c, err := startGroup(t.Context(), "raw", t.TempDir(), s, false, goEnds(t.Context(), o.End, "raw", s))
	require.NoError(t, err)
	for range 2 {
		for _, p := range c.processes {
			require.Eventually(t, func() bool { return status(p.cmd.Process.Pid)[0] == "T" }, 5*time.Second, time.Millisecond)
		}
		_, err := c.measure(t.Context(), 5)
		require.NoError(t, err)
	}
	begin := time.Now()
	require.NoError(t, c.close())
	require.Less(t, time.Since(begin), farewell)
}

// TestStartedForATurn: without memory for all at once.
func TestStartedForATurn(t *testing.T) {
	o := testOptions(Shape{1, 2, 64, 1}, "raw")
	require.NoError(t, o.fill())
	b := &builder{options: &o, dir: t.TempDir()}
	e, err := b.entrant(t.Context(), "raw", Shape{1, 2, 64, 1})
	require.NoError(t, err)
	for range 2 {
		measured, err := e.measure(t.Context(), 5)
		require.NoError(t, err)
		require.Len(t, measured.times, 5)
		require.Equal(t, 5, measured.iterations)
	}
	require.NoError(t, e.close())
	pages, err := os.ReadDir(b.dir)
	require.NoError(t, err)
	require.Empty(t, pages)
}

// skipShort leaves out what a short test, as under the race detector, sees
// nothing of: programs that are built for it.
func skipShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("programs of their own show nothing to a short test")
	}
}

// TestGRPC builds gRPC's end from this checkout, once for all shapes.
func TestGRPC(t *testing.T) {
	skipShort(t)
	ctx, cancel := context.WithTimeout(t.Context(), peerTimeout+time.Minute)
	defer cancel()
	o := testOptions(Shape{1, 1, 256 << 10, 1}, "tcp", "grpc")
	o.Senders, o.Receivers, o.Messages = []int{1, 3}, []int{1, 2}, []int{1, 3}
	report, err := Run(ctx, o)
	require.NoError(t, err)
	require.Empty(t, report.Skipped)
	require.Len(t, report.Rows, 4*3)
	for i, row := range report.Rows {
		require.Equal(t, []string{"tcp", "grpc", "grpc-tuned"}[i%3], row.Transport)
		require.Positive(t, row.MedianUS)
		require.Positive(t, *row.CPUPerGB)
		require.Equal(t, row.Transport != "grpc", row.Ratios["grpc"] > 0)
	}
}

// TestMPI does so with MPI, where it is installed.
func TestMPI(t *testing.T) {
	skipShort(t)
	if err := find("mpicc", "mpirun"); err != nil {
		t.Skip(err)
	}
	for _, s := range []Shape{{1, 1, 256 << 10, 1}, {3, 2, 4096, 2}} {
		requireRows(t, measured(t, s, "mpi"), "mpi-shm", "mpi-tcp")
	}
}

// TestPerftest runs UCX's program, where it is installed.
func TestPerftest(t *testing.T) {
	skipShort(t)
	if err := find(perftestProgram); err != nil {
		t.Skip(err)
	}
	report := measured(t, Shape{1, 1, 4096, 1}, "ucx")
	requireRows(t, report, "ucx", "ucx-tcp")
	require.Nil(t, report.Rows[0].CPUPerGB)
}

// TestMissing: what is not installed is named, and the rest measured.
func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	report := measured(t, Shape{1, 1, 64, 1}, "tcp", "grpc", "mpi", "ucx")
	requireRows(t, report, "tcp")
	require.Len(t, report.Skipped, 6)
	require.Equal(t, "grpc", report.Skipped[0].Transport)
	require.Equal(t, `tandem-bench-grpc: not installed in PATH, and not built: go: not installed; in a checkout of Tandem "go install -C bench/peers ./..." installs it`, report.Skipped[0].Reason)
	require.Equal(t, report.Skipped[0].Reason, report.Skipped[1].Reason)
	require.Equal(t, Skipped{"skipped", "mpi-shm", Shape{1, 1, 64, 1}, "mpicc: not installed"}, report.Skipped[2])
	require.Equal(t, "ucx_perftest: not installed", report.Skipped[4].Reason)
}

// TestUnsuited: what others cannot do is named, too.
func TestUnsuited(t *testing.T) {
	b := &builder{options: &Options{}}
	_, err := b.entrant(t.Context(), "mpi-tcp", Shape{1, 8, 1 << 28, 1})
	require.ErrorIs(t, err, errUnsuited)
	require.ErrorContains(t, err, "2147483648 bytes")
	if find(perftestProgram) == nil {
		_, err := b.entrant(t.Context(), "ucx", Shape{2, 1, 64, 1})
		require.ErrorIs(t, err, errUnsuited)
	}
	if ucx.Available() != nil {
		_, err := b.entrant(t.Context(), "m2n-ucx", Shape{1, 1, 64, 1})
		require.ErrorIs(t, err, errMissing)
		require.ErrorContains(t, err, "tag ucx")
	}
}

// TestFabric moves bytes with m2n over UCX, in a program that has it.
func TestFabric(t *testing.T) {
	if err := ucx.Available(); err != nil {
		t.Skip(err)
	}
	requireRows(t, measured(t, Shape{2, 2, 4096, 3}, "m2n-ucx"), "m2n-ucx")
}

// TestEndsThatFail: what a process said is in the error, and the others go.
func TestEndsThatFail(t *testing.T) {
	o := testOptions(Shape{2, 2, 64, 1}, "raw")
	o.End = []string{"/bin/sh", "-c", `[ "$2" = 3 ] && { echo "out of luck" >&2; exit 7; }; exec ` + strings.Join(o.End, " ") + ` "$0" "$1" "$2"`}
	_, err := Run(t.Context(), o)
	require.ErrorContains(t, err, "2 × 2, 64 B")
	require.ErrorContains(t, err, "raw, process 3: exit status 7: out of luck")
}

// TestEndsThatHang are killed with the context, and waited for.
func TestEndsThatHang(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	o := testOptions(Shape{1, 1, 64, 1}, "raw")
	o.End = []string{"/bin/sh", "-c", "echo $$ >> " + pids + "; exec sleep 100"}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := Run(ctx, o)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(begin), 10*time.Second)
	text, err := os.ReadFile(pids)
	require.NoError(t, err)
	require.Len(t, strings.Fields(string(text)), 2)
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		require.NoError(t, err)
		require.ErrorIs(t, unix.Kill(pid, 0), unix.ESRCH)
	}
}

// TestKilledParent: ends die with the process that measures, however it dies.
func TestKilledParent(t *testing.T) {
	names := []string{"raw"}
	if find("mpicc", "mpirun") == nil && !testing.Short() {
		names = append(names, "mpi")
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			parent := exec.Command(os.Args[0])
			parent.Env = append(os.Environ(), runVariable+"="+name)
			require.NoError(t, parent.Start())
			killed := false
			defer func() {
				if !killed {
					_ = parent.Process.Kill()
					_ = parent.Wait()
				}
			}()
			var ends []int
			require.Eventually(t, func() bool {
				ends = descendants(parent.Process.Pid)
				return len(ends) >= 2 && ticks(ends) > 20
			}, 30*time.Second, 20*time.Millisecond, "the ends work")
			dir := folderOf(t, ends)
			defer func() { require.NoError(t, os.RemoveAll(dir)) }() // nobody else is left to do it
			require.NoError(t, parent.Process.Kill())
			require.Error(t, parent.Wait())
			killed = true
			require.Eventually(t, func() bool {
				return !slices.ContainsFunc(ends, func(pid int) bool { return alive(pid) })
			}, 10*time.Second, 20*time.Millisecond, "the ends die")
		})
	}
}

// folderOf is where the page of ends is: it is in their command lines.
func folderOf(t *testing.T, ends []int) string {
	t.Helper()
	for _, pid := range ends {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may have ended
		for arg := range strings.SplitSeq(string(text), "\x00") {
			if strings.HasPrefix(filepath.Base(arg), "page-") {
				return filepath.Dir(arg)
			}
		}
	}
	t.Fatal("no end has a page")
	return ""
}

// descendants are the processes below one.
func descendants(pid int) []int {
	var all []int
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		text, _ := os.ReadFile(file) // the thread may have ended
		for _, field := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(field)
			if err == nil {
				all = append(append(all, child), descendants(child)...)
			}
		}
	}
	return all
}

// status are the fields of a process behind its name; none if there is none.
func status(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, fields, _ := strings.Cut(string(text), ") ")
	return strings.Fields(fields)
}

// alive tells whether a process runs: one that nobody waited for does not.
func alive(pid int) bool {
	fields := status(pid)
	return len(fields) > 0 && fields[0] != "Z"
}

// ticks are the processor time of processes.
func ticks(pids []int) int {
	sum := 0
	for _, pid := range pids {
		if fields := status(pid); len(fields) > 12 {
			user, _ := strconv.Atoi(fields[11])
			system, _ := strconv.Atoi(fields[12])
			sum += user + system
		}
	}
	return sum
}

// TestPage: another process's page is read as it was written, and what is none
// is refused.
func TestPage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page")
	s := Shape{2, 3, 64, 5}
	p, err := createPage(path, s)
	require.NoError(t, err)
	defer p.close()
	require.NoError(t, p.setAddress(2, "tcp:127.0.0.1:99"))
	p.done[2][maxRound-1] = 42

	q, err := openPage(path)
	require.NoError(t, err)
	defer q.close()
	require.Equal(t, s, q.shape())
	require.Equal(t, "tcp:127.0.0.1:99", q.address(2))
	require.Equal(t, int64(42), q.done[2][maxRound-1])
	require.ErrorContains(t, p.setAddress(0, strings.Repeat("x", 256)), "longer than 255")

	for name, text := range map[string]string{"empty": "", "short": strings.Repeat("x", headerSize-1), "other": strings.Repeat("x", 1<<20)} {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := openPage(path)
		require.ErrorContains(t, err, "shared page", name)
	}
	_, err = createPage(path, s)
	require.ErrorIs(t, err, os.ErrExist)
}

// TestLayoutOfPage is that of the same structures in mpi/alltoallv.c.
func TestLayoutOfPage(t *testing.T) {
	require.Equal(t, 320, headerSize)
	require.Equal(t, 320, memberSize)
	require.Contains(t, string(mpiSource), fmt.Sprintf("MAX_ROUND = %d", maxRound))
	require.Contains(t, string(mpiSource), fmt.Sprintf("%#x", uint64(pageMagic)))
}

// TestClock reads the machine's clock.
func TestClock(t *testing.T) {
	c, err := newClock()
	require.NoError(t, err)
	var ts unix.Timespec
	for range 3 {
		before := c.now()
		require.NoError(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts))
		after := c.now()
		require.Less(t, before-int64(time.Millisecond), ts.Nano())
		require.Greater(t, after+int64(time.Millisecond), ts.Nano())
	}
}

// TestRowsAreCompared: a bit that changed, and a row of another iteration, are
// found.
func TestRowsAreCompared(t *testing.T) {
	row := make([]byte, 64)
	fillRow(row, 1, 2)
	require.NoError(t, checkRow(row, 1, 2))
	require.Error(t, checkRow(row, 2, 1))
	row[63] ^= 1
	require.ErrorContains(t, checkRow(row, 1, 2), "message of sender 1 to receiver 2")
	require.ErrorContains(t, checkRow(row, 1, 2), "offset 56")

	row[0] = 7
	for i := 1; i < 8; i++ {
		row[i] = 0
	}
	require.NoError(t, checkMark(row, 1, 2, 7))
	require.ErrorContains(t, checkMark(row, 1, 2, markOf(1, 7)), "iteration 0x7, want 0x100000007")
}

// TestFutex: a wait ends with its context.
func TestFutex(t *testing.T) {
	p, err := createPage(filepath.Join(t.TempDir(), "page"), Shape{1, 1, 8, 1})
	require.NoError(t, err)
	defer p.close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, waitWhile(ctx, &p.command, 0), context.DeadlineExceeded)
	p.spin = 1
	require.ErrorIs(t, p.await(ctx, 0), context.DeadlineExceeded)
	require.NoError(t, waitWhile(ctx, &p.command, 1), "it has another value")
}

// TestTail keeps the end.
func TestTail(t *testing.T) {
	var out tail
	for i := range 1000 {
		_, err := fmt.Fprintf(&out, "line %d\n", i)
		require.NoError(t, err)
	}
	require.Len(t, out.text, tailBytes)
	require.True(t, strings.HasSuffix(out.String(), "line 999"))
}

// TestProcessGone: what ended without a word is said to have.
func TestProcessGone(t *testing.T) {
	require.EqualError(t, (&process{name: "raw, process 1", stderr: &tail{}}).failure(), "raw, process 1: ended too early")
	p := &process{name: "x", stderr: &tail{}, err: errors.New(syscall.SIGKILL.String())}
	require.EqualError(t, p.failure(), "x: killed")
}
