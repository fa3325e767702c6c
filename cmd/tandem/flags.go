package main

import (
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// modelFlags name a model.
type modelFlags struct {
	Model string `help:"Hugging Face folder, or the id of a model in the local Hugging Face cache (ORG/NAME). Default: the embedded model, gopher, which completes Go code." placeholder:"DIR" env:"TANDEM_MODEL"`
}

// limitFlags bound what a model is asked for.
type limitFlags struct {
	MaxModelLen count `help:"Longest sequence in tokens, prompt and output. Default: the model's." placeholder:"N"`
}

// wireFlags say how rows travel between attention and expert nodes.
type wireFlags struct {
	Wire    kernel.RowFormat `help:"How rows travel between attention and expert nodes: f32, bf16 or int8, which take a half and a quarter of the bytes and round." default:"f32"`
	Combine route.Combine    `help:"Where the results of a row's experts are added up: expert, where the row came from, so that every layout gives the same output; or partial, first on each expert node: fewer bytes, and output that depends on the number of expert nodes." default:"expert"`
}

// deviceFlags say what a process computes with.
type deviceFlags struct {
	KVMemory bytes      `help:"Memory of the KV cache, such as 2GiB. Default: as much as the sequences need, at most a third of what is free beside the weights, in this container." placeholder:"SIZE" name:"kv-memory"`
	Threads  count      `help:"Threads. Default: one for each processor." placeholder:"N"`
	ISA      kernel.ISA `help:"Instruction set: auto, portable, avx2 or avx512. It changes the speed and never a result." default:"auto" name:"isa"`
}

// nodeFlags say what a node is like.
type nodeFlags struct {
	MaxNumSeqs count    `help:"Sequences that an attention node runs at once." default:"64"`
	PageTokens count    `help:"Tokens in a page of the KV cache, a multiple of 16." default:"16"`
	Linger     duration `help:"Longest that an expert node holds rows back to join them with those of other attention nodes. Default, and 0: adaptive." placeholder:"TIME"`
	deviceFlags
}

func (f *limitFlags) addTo(o *deploy.Options) { o.MaxModelLen = int(f.MaxModelLen) }

func (f *wireFlags) addTo(o *deploy.Options) { o.Wire = route.Wire{Rows: f.Wire, Combine: f.Combine} }

func (f *deviceFlags) addTo(o *deploy.Options) {
	o.KVMemory, o.Threads = int64(f.KVMemory), int(f.Threads)
	o.Device = func(_ string, pool *kernel.Pool) (kernel.ExpertDevice, error) {
		return kernel.NewCPU(kernel.CPUOptions{ISA: f.ISA, Pool: pool, Threads: int(f.Threads)})
	}
}

func (f *nodeFlags) addTo(o *deploy.Options) {
	f.deviceFlags.addTo(o)
	o.MaxNumSeqs, o.PageTokens, o.Linger = int(f.MaxNumSeqs), int(f.PageTokens), time.Duration(f.Linger)
}

// terminalFlags are what a model in the terminal needs: it has one sequence.
type terminalFlags struct {
	limitFlags
	wireFlags
	deviceFlags
}

func (f *terminalFlags) options(log *slog.Logger) deploy.Options {
	o := deploy.Options{Log: log, MaxNumSeqs: 1}
	f.limitFlags.addTo(&o)
	f.wireFlags.addTo(&o)
	f.deviceFlags.addTo(&o)
	return o
}

// count is a number of things, one at least.
type count int

// UnmarshalText reads a number.
func (c *count) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 32)
	if err != nil || n < 1 {
		return fmt.Errorf("%q: want a whole number from 1 to %d", text, math.MaxInt32)
	}
	*c = count(n)
	return nil
}

// or is the number, or what stands for a flag that is not given.
func (c count) or(otherwise int) int {
	if c == 0 {
		return otherwise
	}
	return int(c)
}

// duration is a time of 0 or more. What 0 means, a flag's help says.
type duration time.Duration

// UnmarshalText reads a number and a unit.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%q: want a number and a unit, such as 500ms, 30s or 10m", text)
	}
	if v < 0 {
		return fmt.Errorf("%q: want 0 or more", text)
	}
	*d = duration(min(v, forever)) // what is added to a time of day must not overflow
	return nil
}

// String writes it as it is read.
func (d duration) String() string { return time.Duration(d).String() }

// forever is longer than anything takes, for flags where 0 is no limit.
const forever = 100 * 365 * 24 * time.Hour

// orElse is the duration, or what stands for 0.
func (d duration) orElse(zero time.Duration) time.Duration {
	if d == 0 {
		return zero
	}
	return time.Duration(d)
}

// bytes is a size like "512MiB" or "2G".
type bytes int64

// UnmarshalText reads a whole number and a unit of powers of 1024.
func (b *bytes) UnmarshalText(text []byte) error {
	s := strings.ToUpper(strings.TrimSpace(string(text)))
	digits := strings.TrimRight(s, "KMGTIB")
	n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
	shift, known := map[string]int{"": 0, "B": 0, "K": 10, "KIB": 10, "KB": 10, "M": 20, "MIB": 20, "MB": 20, "G": 30,
		"GIB": 30, "GB": 30, "T": 40, "TIB": 40, "TB": 40}[s[len(digits):]]
	if err != nil || !known || n < 1 || n > (1<<62)>>shift {
		return fmt.Errorf("size %q: want a number and a unit, such as 512MiB or 2GiB", text)
	}
	*b = bytes(n << shift)
	return nil
}
