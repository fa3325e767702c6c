package main

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// modelFlags name a model.
type modelFlags struct {
	Model string `help:"Hugging Face folder; default: the embedded model." placeholder:"DIR" env:"TANDEM_MODEL"`
}

// layoutFlags say how many nodes there are.
type layoutFlags struct {
	Attention    int `help:"Attention nodes in this process." default:"1"`
	Experts      int `help:"Expert nodes: in this process, or in the cluster." default:"1"`
	MicroBatches int `help:"Micro-batches in flight per attention node; 0: 1 in one process, 2 with nodes apart." default:"0"`
}

// sizeFlags bound what a node holds and computes at once.
type sizeFlags struct {
	MaxModelLen         int           `help:"Longest sequence in tokens, prompt and output; default: the model's."`
	KVMemory            bytes         `help:"Memory of the KV cache (\"2GiB\"); default: a third of the free memory." placeholder:"SIZE" name:"kv-memory"`
	MaxNumSeqs          int           `help:"Sequences that an attention node runs at once." default:"64"`
	MaxNumBatchedTokens int           `help:"Rows of a micro-batch in one step; longer prompts are computed in chunks." default:"512"`
	MaxWaiting          int           `help:"Requests that may wait; more get 429." default:"1024"`
	Threads             int           `help:"Threads of this process's nodes; default: all cores."`
	PageTokens          int           `help:"Tokens in a page of the KV cache." default:"16"`
	Linger              time.Duration `help:"Longest that an expert node waits for more rows; 0: adaptive."`
	ISA                 kernel.ISA    `help:"Instruction set: auto, portable, avx2, avx512." default:"auto" name:"isa"`
}

// options are the flags as a deployment's.
func (f *sizeFlags) options(log *slog.Logger) deploy.Options {
	return deploy.Options{
		MaxModelLen: f.MaxModelLen, KVMemory: int64(f.KVMemory), MaxNumSeqs: f.MaxNumSeqs,
		MaxBatchedTokens: f.MaxNumBatchedTokens, MaxWaiting: f.MaxWaiting, Threads: f.Threads,
		PageTokens: f.PageTokens, Linger: f.Linger, Log: log,
		Device: func(_ string, pool *kernel.Pool) (kernel.Device, error) {
			return kernel.NewCPU(kernel.CPUOptions{ISA: f.ISA, Pool: pool, Threads: f.Threads})
		},
	}
}

// kvShare says where the size of the KV cache comes from.
func (f *sizeFlags) kvShare() string {
	if f.KVMemory > 0 {
		return "--kv-memory"
	}
	return "at most a third of the free memory; --kv-memory changes it"
}

// options are the flags of a deployment with a layout.
func (c *ServeCmd) options(log *slog.Logger) deploy.Options {
	o := c.sizeFlags.options(log)
	o.Attention, o.Experts, o.MicroBatches = c.Attention, c.Experts, c.MicroBatches
	if c.Control != "" && o.MicroBatches == 0 {
		o.MicroBatches = 2
	}
	return o
}

// bytes is a size like "512MiB" or "2G".
type bytes int64

// UnmarshalText reads a whole number and a unit of powers of 1024.
func (b *bytes) UnmarshalText(text []byte) error {
	s := strings.ToUpper(strings.TrimSpace(string(text)))
	digits := strings.TrimRight(s, "KMGTIB")
	n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
	shift, known := map[string]int{"": 0, "B": 0, "K": 10, "KIB": 10, "KB": 10, "M": 20, "MIB": 20, "MB": 20, "G": 30, "GIB": 30, "GB": 30, "T": 40, "TIB": 40, "TB": 40}[s[len(digits):]]
	if err != nil || !known || n < 0 || n > (1<<62)>>shift {
		return fmt.Errorf("size %q: want a number and a unit, such as 512MiB or 2GiB", text)
	}
	*b = bytes(n << shift)
	return nil
}
