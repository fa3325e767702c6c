// Command tandem-bench-figures draws what `tandem bench m2n --json` prints:
//
//	tandem bench m2n --receivers 1,2,4,8 --json >rows.json
//	tandem-bench-figures FOLDER <rows.json
//
// It prints the files that it wrote, a line each. `tandem bench m2n --plot` runs
// it. It is a program of its own so that the server's binary does not link a
// library that plots.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tandem-moe/tandem/bench/exchange"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "tandem-bench-figures:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("%d arguments, want FOLDER, and rows of `tandem bench m2n --json` at the input", len(args))
	}
	rows, err := readRows(in)
	if err != nil {
		return err
	}
	files, err := (&report{rows}).writeFigures(args[0])
	for _, f := range files {
		fmt.Fprintln(out, f)
	}
	return err
}

// maxInput bounds what is read, in bytes: some hundred thousand rows.
const maxInput = 64 << 20

// readRows reads one JSON object a line. Those of contestants that were left out
// have nothing to draw.
func readRows(in io.Reader) ([]exchange.Row, error) {
	limited := &io.LimitedReader{R: in, N: maxInput + 1}
	decoder := json.NewDecoder(limited)
	var rows []exchange.Row
	for {
		var row exchange.Row
		err := decoder.Decode(&row)
		switch {
		case limited.N == 0:
			return nil, fmt.Errorf("rows: more than %d bytes", maxInput)
		case errors.Is(err, io.EOF):
			return rows, nil
		case err != nil:
			return nil, fmt.Errorf("rows: object %d: %w", len(rows)+1, err)
		case row.Kind == "skipped":
			continue
		}
		if err := check(row); err != nil {
			return nil, fmt.Errorf("rows: object %d: %w", len(rows)+1, err)
		}
		rows = append(rows, row)
	}
}

// check refuses what cannot be drawn: axes are logarithmic.
func check(r exchange.Row) error {
	if r.Kind != "m2n" {
		return fmt.Errorf("kind %q: want m2n or skipped", r.Kind)
	}
	for _, v := range []struct {
		field string
		value float64
	}{
		{"senders", float64(r.Senders)}, {"receivers", float64(r.Receivers)}, {"bytes", float64(r.Bytes)}, {"messages", float64(r.Messages)},
		{"median_us", r.MedianUS}, {"p99_us", r.P99US}, {"gb_per_s", r.GBps},
	} {
		if !(v.value > 0) {
			return fmt.Errorf("%s %v: want a positive number", v.field, v.value)
		}
	}
	for field, ratios := range map[string]map[string]float64{"ratios": r.Ratios, "p99_ratios": r.P99Ratios} {
		for name, x := range ratios {
			if !(x > 0) {
				return fmt.Errorf("%s of %s: %v: want a positive number", field, name, x)
			}
		}
	}
	return nil
}
