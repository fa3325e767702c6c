package main

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBenchM2N exchanges bytes between processes of this program.
func TestBenchM2N(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("its processes meet on a futex, which is Linux's")
	}
	out := succeeds(t, "", strings.Fields("bench m2n --senders 2 --size 4KB --transport tcp --baseline raw --iterations 6 --repeats 2 --json")...)
	var names []string
	for line := range strings.Lines(out) {
		var row struct {
			Transport string  `json:"transport"`
			Senders   int     `json:"senders"`
			Receivers int     `json:"receivers"`
			Bytes     int     `json:"bytes"`
			MedianUS  float64 `json:"median_us"`
		}
		require.NoError(t, json.Unmarshal([]byte(line), &row), line)
		require.Equal(t, []int{2, 1, 4096}, []int{row.Senders, row.Receivers, row.Bytes})
		require.Positive(t, row.MedianUS)
		names = append(names, row.Transport)
	}
	require.Equal(t, []string{"tcp", "raw", "raw-crc"}, names)
}

// TestBenchM2NMistakes name the flag.
func TestBenchM2NMistakes(t *testing.T) {
	for _, m := range []mistake{
		{"bench m2n --size 12", failed, []string{"--size: 12", "multiple of 8"}},
		{"bench m2n --senders 0", usage, []string{"--senders", "whole number"}},
		{"bench m2n --senders 1,2 --receivers 1,2,3", failed, []string{"--senders has 2 values and --receivers 3"}},
		{"bench m2n --receivers 1000", failed, []string{"--receivers: 1000"}},
		{"bench m2n --transport rdma", usage, []string{"--transport", "rdma"}},
		{"bench m2n --baseline nccl", usage, []string{"--baseline", "nccl"}},
		{"bench m2n --line-rate=-1", failed, []string{"--line-rate -1"}},
	} {
		m.refuses(t)
	}
}
