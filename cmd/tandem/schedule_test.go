package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/golden"
)

// shape is a small deployment, of which a layer is dense.
const shape = " --attention 2 --experts 2 --layers 3 --dense 0 --micro-batches 2 --steps 2"

// training is a schedule with backward passes, written by hand.
var training = filepath.Join("..", "..", "schedule", "testdata", "interleaved.txt")

// TestScheduleGolden holds what the commands print.
func TestScheduleGolden(t *testing.T) {
	for name, args := range map[string]string{
		"print":             "print" + shape,
		"print-grid":        "print --as grid" + shape,
		"print-transfers":   "print --as transfers --layers 2 --experts 2",
		"print-dense":       "print --layers 2 --dense 0,1",
		"draw":              "draw" + shape + " --time-transfer 250us",
		"draw-narrow":       "draw" + shape + " --width 60",
		"draw-training":     "draw --width 120 " + training,
		"validate":          "validate" + shape,
		"dry-run":           "dry-run" + shape + " --time-experts 1500us --time-head 200us --time-transfer 250us",
		"dry-run-json":      "dry-run --json" + shape,
		"dry-run-training":  "dry-run " + training,
		"validate-training": "validate " + training,
	} {
		t.Run(name, func(t *testing.T) {
			golden.File(t, filepath.Join("schedule", name+".txt"),
				succeeds(t, "", append([]string{"schedule"}, strings.Fields(args)...)...))
		})
	}
}

// TestScheduleReadsWhatItPrints: the text that print writes is what the other
// commands make of the same flags.
func TestScheduleReadsWhatItPrints(t *testing.T) {
	text := succeeds(t, "", strings.Fields("schedule print"+shape)...)
	file := filepath.Join(t.TempDir(), "plan.txt")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	require.Equal(t, text, succeeds(t, "", "schedule", "print", file))
	for _, command := range []string{"print --as grid", "print --as transfers", "draw", "validate", "dry-run",
		"dry-run --json"} {
		args := append([]string{"schedule"}, strings.Fields(command)...)
		want := succeeds(t, "", append(args, strings.Fields(shape)...)...)
		require.Equal(t, want, succeeds(t, "", append(args, file)...), command)
		require.Equal(t, want, succeeds(t, text, append(args, "-")...), "%s from standard input", command)
	}
}

// TestScheduleChrome writes a trace that is JSON, and says where.
func TestScheduleChrome(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace.json")
	out := succeeds(t, "", strings.Fields("schedule draw --chrome "+file+shape)...)
	require.Equal(t, file+": 4 ranks, 16ms; open it in ui.perfetto.dev or chrome://tracing\n", out)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var trace struct {
		TraceEvents []struct{ Name, Ph, Cat string }
	}
	require.NoError(t, json.Unmarshal(text, &trace))
	found := map[string]int{}
	for _, e := range trace.TraceEvents {
		found[e.Ph+" "+e.Cat]++
	}
	require.Equal(t, map[string]int{"M ": 5, "X attention,forward": 24, "X experts,forward": 16, "X head,forward": 8},
		found)
}

// TestScheduleRefusesOneThatCannotRun: it names the file, the rank and the
// action, and shows the lists around it. The exit code is that of a failure.
func TestScheduleRefusesOneThatCannotRun(t *testing.T) {
	file := filepath.Join("..", "..", "schedule", "testdata", "invalid", "deadlock.txt")
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	text, reason, found := strings.Cut(string(content), "-----\n")
	require.True(t, found)
	for _, command := range []string{"validate", "draw", "dry-run", "print --as transfers"} {
		got := tandem(t, text, append(append([]string{"schedule"}, strings.Fields(command)...), "-")...)
		require.Equal(t, failed, got.code, command)
		require.Empty(t, got.out, command)
		require.Equal(t, "tandem: standard input: "+reason, got.err, command)
	}
	require.Contains(t, reason, "[")
	require.Contains(t, succeeds(t, text, "schedule", "print", "-"), "schedule ", "what cannot run can be printed")
}

// TestScheduleMistakes: each refusal names the flag or the file, and nothing is
// allocated by an absurd number.
func TestScheduleMistakes(t *testing.T) {
	large := filepath.Join(t.TempDir(), "large.txt")
	require.NoError(t, os.WriteFile(large, nil, 0o600))
	require.NoError(t, os.Truncate(large, 1<<40))
	for _, m := range []mistake{
		{"schedule draw --layers 1000000000", failed, []string{"--layers 1000000000: at most 65536"}},
		{"schedule draw --layers 60000 --steps 60000 --micro-batches 60000", failed, []string{"60000 layers, 60000 micro-batches and 60000 steps make more than 1048576 actions"}},
		{"schedule print --attention 2000000000", failed, []string{"2000000000 attention ranks, at most 1048576"}},
		{"schedule print --experts 2000000000", failed, []string{"2000000000 expert ranks, at most 1048576"}},
		{"schedule print --layers 0", usage, []string{"--layers", "whole number from 1"}},
		{"schedule print --dense 4", failed, []string{"--dense 4: the model has 4 layers, from 0 to 3"}},
		{"schedule print --dense 2-1", usage, []string{"--dense", `"2-1": want layers, such as 0 or 0-2`}},
		{"schedule print --dense 0-99999999999999999999", usage, []string{"--dense"}},
		{"schedule print --dense 0-3 --experts 1", failed, []string{"1 expert ranks, and the model has no sparse layer"}},
		{"schedule print --kind 1f1b", usage, []string{"--kind", "1f1b"}},
		{"schedule print --as picture", usage, []string{"--as", "picture"}},
		{"schedule draw --time-experts=-1ms", usage, []string{"--time-experts", "0 or more"}},
		{"schedule draw --time-experts 900000h --steps 1000", failed,
			[]string{"takes 876000h0m0s", "no clock counts that far"}},
		{"schedule draw --chrome no/such/folder/trace.json", failed, []string{"no/such/folder/trace.json"}},
		{"schedule validate no/such.txt", failed, []string{"reading a schedule", "no/such.txt"}},
		{"schedule validate .", failed, []string{"reading a schedule", "."}},
		{"schedule validate " + large, failed, []string{large + " has more than 16777216 bytes"}},
		{"schedule validate -", failed, []string{"standard input: schedule: the text has no line"}},
		{"schedule validate testdata/schedule/draw.txt", failed, []string{`testdata/schedule/draw.txt: schedule line 1: "A0" is no header`}},
		{"schedule validate plan.txt --layers 3", usage,
			[]string{"--layers is for a schedule that is made", "plan.txt"}},
		{"schedule dry-run plan.txt --dense 0", usage, []string{"--dense is for"}},
	} {
		m.refuses(t)
	}
}
