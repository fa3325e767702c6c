// Command tandem-bench-grpc is an end of the contestants grpc and grpc-tuned of
// `tandem bench m2n`, which starts it. It is a program of its own so that the
// server's binary does not link gRPC.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/tandem-moe/tandem/bench/exchange"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tandem-bench-grpc:", err)
		os.Exit(1)
	}
}

// plans are the contestants.
func plans() map[string]exchange.Plan {
	return map[string]exchange.Plan{
		"grpc":       grpcStyle{}.plan(),
		"grpc-tuned": grpcStyle{tuned: true}.plan(),
	}
}

// run sends or receives until the page says stop. A signal ends it at once, as its
// parent would.
func run(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("%d arguments, want PAGE TRANSPORT RANK: `tandem bench m2n` starts this program", len(args))
	}
	rank, err := strconv.Atoi(args[2])
	if err != nil {
		return fmt.Errorf("rank %q: want a whole number", args[2])
	}
	return exchange.EndOf(context.Background(), plans(), args[0], args[1], rank)
}
