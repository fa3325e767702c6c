package model

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// maxAllocated bounds what reading n bytes of configuration may allocate: the
// longest list of layers, and a constant number of copies of the text.
func maxAllocated(n int) uint64 { return 1<<20 + 200*uint64(n) }

// FuzzConfig: no text panics or allocates without bound, and what is accepted
// reads back from what is written.
func FuzzConfig(f *testing.F) {
	for _, seed := range configSeeds(f) {
		f.Add(seed)
		f.Add(seed[:len(seed)/2])
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s, err := ParseSpec(text)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, maxAllocated(len(text)))
		if err != nil {
			require.Nil(t, s)
			require.NotEmpty(t, err.Error())
			return
		}
		again, err := s.Config()
		require.NoError(t, err)
		back, err := ParseSpec(again)
		require.NoError(t, err, "%s", again)
		require.Equal(t, s, back)
		require.Equal(t, s.Hash(), back.Hash())
		if g, err := ParseGeneration(text, s); err == nil {
			require.LessOrEqual(t, len(g.Unapplied), len(text))
		}
	})
}

func configSeeds(f *testing.F) [][]byte {
	var seeds [][]byte
	for _, pattern := range []string{"testdata/config/*.json", "../testdata/models/*/config.json",
		"gopher/config.json"} {
		files, err := filepath.Glob(pattern)
		require.NoError(f, err)
		require.NotEmpty(f, files)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(f, err)
			seeds = append(seeds, text)
		}
	}
	for _, c := range []fields{mixtral, qwen3MoE, olmoe} {
		text, err := json.Marshal(c)
		require.NoError(f, err)
		seeds = append(seeds, text)
	}
	return seeds
}
