// Package exchange owns the measurement of many-to-many exchange: M senders and
// N receivers, every end a process of its own, move bytes by m2n and by what
// people use otherwise, under one clock and in turns. It may not know models,
// nor how commands are parsed.
//
// # How it measures
//
// The ends of a contestant share a page of memory (see page): the parent
// commands rounds of iterations there, and everything else waits. In an
// iteration all ends meet at a barrier, whose last arrival stamps the start;
// each receiver stamps when it holds all that is for it; the iteration took from
// the start to the latest of those stamps, on CLOCK_MONOTONIC, which all
// processes of a machine share. The barrier spins where there is a core for each
// process, and parks on a futex otherwise: the same for all contestants.
//
// Contestants take turns, round by round, and those that wait for their turn are
// stopped. Receivers compare every byte in the first round, and a mark of the
// iteration in all others.
package exchange

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Options say what Run measures. The zero value of a field is its default.
type Options struct {
	// Senders and Receivers are numbers of processes: lists of the same length go
	// in step, and one of length one goes with all of the other. Default 1.
	Senders, Receivers []int
	// Sizes are the bytes of a message, multiples of 8. Default 256 KiB.
	Sizes []int
	// Messages are how many follow each other from each sender to each receiver in
	// an iteration: 1, the default, measures latency, and many measure throughput.
	Messages []int
	// Transports are m2n's own, and Baselines what they are compared with: see
	// Transports and Baselines.
	Transports, Baselines []string
	// Iterations are those of a contestant over all repeats, 1000 by default, or
	// as many as fit into Time, 20 s.
	Iterations int
	Time       time.Duration
	// Repeats is how often the contestants take turns: 5.
	Repeats int
	// LineRate is the bit/s of a node's link. 0 compares with the bandwidth of
	// copying memory, measured in the same turns.
	LineRate float64
	// End is the command, without its last arguments, that makes a process an end:
	// one that calls End with them.
	End []string
	// Progress, where it is set, is told of every turn.
	Progress func(Progress)
}

// Progress is a turn that was measured.
type Progress struct {
	Repeat, Repeats int
	Transport       string
	Shape           Shape
	Iterations      int
	MedianUS        float64
}

// Shape is what is exchanged in an iteration: Messages messages of Bytes bytes
// from each of the senders to each of the receivers.
type Shape struct {
	Senders   int `json:"senders"`
	Receivers int `json:"receivers"`
	Bytes     int `json:"bytes"`
	Messages  int `json:"messages"`
}

// processes is the number of ends.
func (s Shape) processes() int { return s.Senders + s.Receivers }

// total is all bytes of an iteration.
func (s Shape) total() int { return s.Senders * s.Receivers * s.Bytes * s.Messages }

// busiest is the bytes of an iteration that pass the busiest node's link in one
// direction.
func (s Shape) busiest() int { return max(s.Senders, s.Receivers) * s.Bytes * s.Messages }

func (s Shape) String() string {
	text := fmt.Sprintf("%d × %d, %s", s.Senders, s.Receivers, SizeText(s.Bytes))
	if s.Messages > 1 {
		text += fmt.Sprintf(" × %d", s.Messages)
	}
	return text
}

// SizeText prints bytes in units of 1024.
func SizeText(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}

// Limits of what is measured.
const (
	maxEnds     = 256
	maxBytes    = 1 << 30
	maxMessages = 1 << 16
	// maxRound is the iterations of a round.
	maxRound = 20000
)

// fill puts defaults in and refuses what cannot be measured.
func (o *Options) fill() error {
	for _, d := range []struct {
		flag                  string
		list                  *[]int
		preset                int
		least, most, multiple int
	}{
		{"senders", &o.Senders, 1, 1, maxEnds, 1},
		{"receivers", &o.Receivers, 1, 1, maxEnds, 1},
		{"size", &o.Sizes, 256 << 10, 8, maxBytes, 8},
		{"messages", &o.Messages, 1, 1, maxMessages, 1},
	} {
		if len(*d.list) == 0 {
			*d.list = []int{d.preset}
		}
		for _, n := range *d.list {
			if n < d.least || n > d.most || n%d.multiple != 0 {
				return fmt.Errorf("--%s: %d: want a number from %d to %d, a multiple of %d", d.flag, n, d.least, d.most, d.multiple)
			}
		}
	}
	if s, r := len(o.Senders), len(o.Receivers); s != r && s != 1 && r != 1 {
		return fmt.Errorf("--senders has %d values and --receivers %d: want the same number, or one", s, r)
	}
	return o.fillRest()
}

func (o *Options) fillRest() error {
	for _, d := range []struct {
		flag   string
		value  *int
		preset int
	}{{"iterations", &o.Iterations, 1000}, {"repeats", &o.Repeats, 5}} {
		if *d.value == 0 {
			*d.value = d.preset
		}
		if *d.value < 1 {
			return fmt.Errorf("--%s: %d: want 1 or more", d.flag, *d.value)
		}
	}
	if o.Time == 0 {
		o.Time = 20 * time.Second
	}
	if o.Time < 0 {
		return fmt.Errorf("--time %v: want a positive one", o.Time)
	}
	if !(o.LineRate >= 0) || math.IsInf(o.LineRate, 0) {
		return fmt.Errorf("--line-rate %v: want bit/s", o.LineRate)
	}
	if len(o.Transports)+len(o.Baselines) == 0 {
		return errors.New("--transport and --baseline name nothing to measure")
	}
	for _, d := range []struct {
		flag         string
		names, known []string
	}{{"transport", o.Transports, Transports()}, {"baseline", o.Baselines, Baselines()}} {
		for _, name := range d.names {
			if !slices.Contains(d.known, name) {
				return fmt.Errorf("--%s: %q: want %s", d.flag, name, strings.Join(d.known, ", "))
			}
		}
	}
	return nil
}

// shapes are all that is measured.
func (o *Options) shapes() []Shape {
	var list []Shape
	for i := range max(len(o.Senders), len(o.Receivers)) {
		for _, bytes := range o.Sizes {
			for _, messages := range o.Messages {
				list = append(list, Shape{at(o.Senders, i), at(o.Receivers, i), bytes, messages})
			}
		}
	}
	return list
}

// at is the i-th of a list, or the only one.
func at(list []int, i int) int { return list[min(i, len(list)-1)] }

// Transports are the names of m2n's transports between processes. ucx is there
// in programs that are built with the tag ucx; its rows are called m2n-ucx, as ucx
// is a baseline.
func Transports() []string { return []string{"shm", "tcp", "ucx"} }

// Ours reports whether a row is m2n's.
func Ours(row string) bool { return row == "shm" || row == "tcp" || row == "m2n-ucx" }

// Baselines are the names of what m2n is compared with.
func Baselines() []string { return []string{"grpc", "mpi", "raw", "ucx"} }

// contestants are the rows that the options' names stand for, m2n's first.
func (o *Options) contestants() []string {
	var list []string
	for _, name := range o.Transports {
		if name == "ucx" {
			name = "m2n-ucx"
		}
		list = append(list, name)
	}
	for _, name := range slices.Sorted(slices.Values(o.Baselines)) {
		list = append(list, baselineRows(name)...)
	}
	return distinct(list)
}

// baselineRows are the contestants of a baseline.
func baselineRows(name string) []string {
	switch name {
	case "mpi":
		return []string{"mpi-shm", "mpi-tcp"}
	case "grpc":
		return []string{"grpc", "grpc-tuned"}
	case "raw":
		return []string{"raw", "raw-crc"}
	case "ucx":
		return []string{"ucx", "ucx-tcp"}
	}
	return []string{name}
}

// distinct leaves out what was there before.
func distinct(list []string) []string {
	var kept []string
	for _, name := range list {
		if !slices.Contains(kept, name) {
			kept = append(kept, name)
		}
	}
	return kept
}
