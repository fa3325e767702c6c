package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/tandem-moe/tandem/bench/exchange"
)

// BenchM2NCmd measures the exchange of many senders with many receivers.
type BenchM2NCmd struct {
	Senders    []count  `help:"Numbers of senders, each a process." default:"1"`
	Receivers  []count  `help:"Numbers of receivers. Two lists of the same length go in step." default:"1"`
	Size       []bytes  `help:"Sizes of a message, such as 2KB or 8MB." default:"256KB"`
	Messages   []count  `help:"Messages that follow each other from each sender to each receiver: 1 measures latency, many measure throughput." default:"1"`
	Transport  []string `help:"Transports of m2n: shm, tcp, and ucx (row m2n-ucx) in a program that is built with it." default:"shm,tcp" enum:"shm,tcp,ucx"`
	Baseline   []string `help:"What to compare with: grpc, mpi, raw, ucx. gRPC is a program that is built in a checkout, or tandem-bench-grpc in PATH. MPI needs mpicc and mpirun of Open MPI, UCX needs ucx_perftest." default:"grpc,mpi,raw,ucx" enum:"grpc,mpi,raw,ucx"`
	Iterations count    `help:"Iterations of each, over all repeats." default:"1000"`
	Time       duration `help:"Longest that each is measured; then it is fewer iterations. 0: all iterations." default:"20s"`
	Repeats    count    `help:"How often they take turns." default:"5"`
	LineRate   float64  `help:"Bit/s of a node's link, such as 1e9. Default: compare with copying memory." placeholder:"BITS"`
	Plot       string   `help:"Draw figures 5, 11 and 12 of the paper beside ours, into this folder, by a program that is built in a checkout, or tandem-bench-figures in PATH." placeholder:"DIR"`
	JSON       bool     `help:"Print one JSON object a line." name:"json"`
}

// Help says how to read and use it.
func (*BenchM2NCmd) Help() string {
	return `In an iteration all ends meet at a barrier, and each sender sends a message to
each receiver. It took from the last arrival until the last receiver holds all
its messages, on one clock for all. Receivers compare every byte in the first
round. Baselines: raw is plain Go sockets (raw-crc: with CRC32C on both ends),
grpc its streaming, mpi Open MPI's MPI_Alltoallv over shared memory and TCP (a C
program that is built with mpicc), ucx UCX's own ucx_perftest (one sender, one
receiver; it measures half a round trip).

gRPC, and what --plot draws by, are no part of this program, but of the module
bench/peers. In a checkout of Tandem both are built when they are needed; for
elsewhere, "go install -C bench/peers ./..." installs them. Without it gRPC is left
out. tandem-bench-figures also draws what --json printed.

    tandem bench m2n --size 4KB,256KB
    tandem bench m2n --senders 8 --receivers 8 --transport tcp --json
    tandem bench m2n --messages 64 --baseline raw
    tandem bench m2n --receivers 1,2,4,8,16,32 --size 128KB --plot figures
    tandem bench m2n --senders 4,8,16,32 --receivers 4,8,16,32 --plot figures`
}

// Run measures, and prints a table or JSON. What draws is looked for first, so
// that nothing is measured in vain.
func (c *BenchM2NCmd) Run(ctx context.Context, log *slog.Logger) (err error) {
	if c.Plot == "" {
		_, err := c.measure(ctx, log)
		return err
	}
	figures, err := exchange.OpenFigures(ctx)
	if err != nil {
		return fmt.Errorf("bench m2n: --plot: %w", err)
	}
	defer func() { err = errors.Join(err, figures.Close()) }()
	report, err := c.measure(ctx, log)
	if err != nil {
		return err
	}
	files, err := figures.Draw(ctx, report, c.Plot)
	if err != nil {
		return fmt.Errorf("bench m2n: --plot: %w", err)
	}
	log.Info("drawn", "files", files)
	return nil
}

// measure measures and prints.
func (c *BenchM2NCmd) measure(ctx context.Context, log *slog.Logger) (*exchange.Report, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("bench m2n: the program that its ends run: %w", err)
	}
	report, err := exchange.Run(ctx, exchange.Options{
		Senders: ints(c.Senders), Receivers: ints(c.Receivers), Sizes: ints(c.Size), Messages: ints(c.Messages),
		Transports: c.Transport, Baselines: c.Baseline, Iterations: int(c.Iterations), Time: c.Time.orElse(forever),
		Repeats: int(c.Repeats), LineRate: c.LineRate, End: []string{self, "bench", "m2n-end"},
		Progress: func(p exchange.Progress) {
			log.Info("measured", "repeat", fmt.Sprintf("%d/%d", p.Repeat, p.Repeats), "exchange", p.Shape.String(),
				"transport", p.Transport, "iterations", p.Iterations, "median", fmt.Sprintf("%.1fµs", p.MedianUS))
		},
	})
	if err != nil {
		return nil, err
	}
	if c.JSON {
		return report, report.WriteJSON(os.Stdout)
	}
	report.WriteTable(os.Stdout)
	return report, nil
}

// ints are numbers as they are counted.
func ints[N ~int | ~int64](list []N) []int {
	var all []int
	for _, n := range list {
		all = append(all, int(n))
	}
	return all
}

// BenchM2NEndCmd is one end of the exchange, a process that BenchM2NCmd starts.
type BenchM2NEndCmd struct {
	Page      string `arg:"" help:"File of the memory that the ends share."`
	Transport string `arg:"" help:"What it sends or receives by."`
	Rank      int    `arg:"" help:"Its number; senders come first."`
}

// Run sends or receives until the page says stop. It takes no context: a signal
// ends it at once, as its parent would.
func (c *BenchM2NEndCmd) Run() error {
	return exchange.End(context.Background(), c.Page, c.Transport, c.Rank)
}
