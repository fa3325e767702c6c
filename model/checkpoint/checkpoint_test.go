package checkpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tandem-moe/tandem/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tensor makes one whose bytes count up from start.
func tensor(name string, t DType, start int, shape ...int) Named {
	n := t.Size()
	for _, d := range shape {
		n *= int64(d)
	}
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(start + i)
	}
	return Named{name, Tensor{t, shape, data}}
}

func sampleTensors() []Named {
	return []Named{tensor("a", BF16, 1, 3), tensor("b", F32, 50, 2, 2), tensor("c", F16, 9, 4, 2, 3),
		tensor("d", F32, 3, 0)}
}

func requireTensors(t *testing.T, c *Checkpoint, want []Named) {
	t.Helper()
	require.Len(t, c.Names(), len(want))
	for _, w := range want {
		got, err := c.Tensor(w.Name)
		require.NoError(t, err)
		require.Equal(t, w.Tensor, got, w.Name)
	}
}

func TestWriteAndOpen(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, Write(&b, map[string]string{"format": "pt"}, sampleTensors()))
	c, err := OpenBytes("memory", b.Bytes())
	require.NoError(t, err)
	requireTensors(t, c, sampleTensors())
	require.Equal(t, []string{"a", "b", "c", "d"}, c.Names())
	require.True(t, c.Has("a") && !c.Has("e"))
	require.Equal(t, []int{4, 2, 3}, c.Shapes()["c"])
	_, err = c.Tensor("e")
	require.ErrorContains(t, err, `no tensor "e"`)
}

func TestWriteDir(t *testing.T) {
	for _, c := range []struct {
		shard int64
		files int
	}{{0, 1}, {1 << 20, 1}, {50, 2 + 1}, {1, 4 + 1}} {
		t.Run(fmt.Sprint(c.shard), func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, WriteDir(dir, nil, sampleTensors(), c.shard))
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, entries, c.files)
			open, err := Open(dir)
			require.NoError(t, err)
			requireTensors(t, open, sampleTensors())
			require.NoError(t, open.Close())
			require.NoError(t, open.Close(), "again")
		})
	}
}

func TestWriterRefuses(t *testing.T) {
	for _, c := range []struct {
		tensors []Named
		want    string
	}{
		{[]Named{tensor("a", F32, 0, 1), tensor("a", F16, 0, 1)}, `"a" is taken`},
		{[]Named{tensor(metadataKey, F32, 0, 1)}, `"__metadata__" is taken`},
		{[]Named{{"a", Tensor{F32, []int{2}, make([]byte, 7)}}}, "7 bytes are not F32 of shape [2]"},
		{[]Named{{"a", Tensor{"Q4", []int{2}, make([]byte, 8)}}}, "not Q4"},
	} {
		dir := t.TempDir()
		require.ErrorContains(t, WriteDir(dir, nil, c.tensors, 0), c.want)
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left, "nothing half written stays")
	}
	two := []Named{tensor("a", F32, 0, 1), tensor("a", F16, 0, 1)}
	require.ErrorContains(t, WriteDir(t.TempDir(), nil, two, 1), `"a" is taken`)
}

// TestEveryTruncationIsFound cuts a file at every byte.
func TestEveryTruncationIsFound(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, Write(&b, nil, sampleTensors()[:3]))
	path := filepath.Join(t.TempDir(), SingleFile)
	for n := range b.Len() {
		require.NoError(t, os.WriteFile(path, b.Bytes()[:n], 0o600))
		_, err := OpenFile(path)
		var f *FormatError
		require.ErrorAs(t, err, &f, "%d bytes", n)
		require.Equal(t, path, f.File)
	}
}

// twoShards writes sampleTensors as two files and returns their index.
func twoShards(t *testing.T) (dir string, weights map[string]string) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, WriteDir(dir, nil, sampleTensors(), 50))
	text, err := os.ReadFile(filepath.Join(dir, IndexFile))
	require.NoError(t, err)
	var ix struct {
		Weights map[string]string `json:"weight_map"`
	}
	require.NoError(t, json.Unmarshal(text, &ix))
	return dir, ix.Weights
}

// TestIndexOnlyHelps: the tensors are those in the files, whatever an index
// tells; what it says of a tensor that is not there is part of the error.
func TestIndexOnlyHelps(t *testing.T) {
	first, second := "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
	for name, change := range map[string]func(w map[string]string){
		"a missing file":   func(w map[string]string) { w["x"] = "none.safetensors" },
		"a missing tensor": func(w map[string]string) { w["x"] = first },
		"tensor left out":  func(w map[string]string) { delete(w, "a") },
		"tensor elsewhere": func(w map[string]string) { w["a"] = w["c"] },
		"no file is there": func(w map[string]string) {
			clear(w)
			w["a"], w["b"] = "none.safetensors", "neither.safetensors"
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, weights := twoShards(t)
			change(weights)
			require.NoError(t, writeIndex(filepath.Join(dir, IndexFile), weights, 0))
			requireFolder(t, dir, sampleTensors())
		})
	}
	dir, weights := twoShards(t)
	require.NoError(t, os.Remove(filepath.Join(dir, second)))
	c, err := Open(dir)
	require.NoError(t, err)
	require.Equal(t, []string{second}, c.Absent())
	_, err = c.Tensor("c")
	require.ErrorContains(t, err,
		`no tensor "c": model.safetensors.index.json puts it in `+weights["c"]+", which is not in the folder")
	require.Contains(t, c.Explain([]string{"c", "x"}), "puts them in "+second)
	require.NoError(t, c.Close())

	require.NoError(t, os.Remove(filepath.Join(dir, first)))
	_, err = Open(dir)
	require.ErrorContains(t, err, "names 2 files, "+first+" the first, and none of them is there")
}

// TestIndexNamesNothingOutside its folder.
func TestIndexNamesNothingOutside(t *testing.T) {
	for _, file := range []string{"../model-00001-of-00002.safetensors", "sub/x.safetensors", "/etc/passwd", `..\\x`,
		""} {
		dir, weights := twoShards(t)
		weights["a"] = file
		require.NoError(t, writeIndex(filepath.Join(dir, IndexFile), weights, 0))
		_, err := Open(dir)
		require.ErrorContains(t, err, "not a plain name", file)
	}
}

// TestSingleFileWins over what is beside it.
func TestSingleFileWins(t *testing.T) {
	dir, _ := twoShards(t)
	only := []Named{tensor("z", F32, 7, 2)}
	require.NoError(t, WriteDir(dir, nil, only, 0))
	requireFolder(t, dir, only)
}

// TestShardsWithoutIndex opens what ends in .safetensors; of a tensor that two
// files hold, the later file's counts, with an index and without.
func TestShardsWithoutIndex(t *testing.T) {
	dir, weights := twoShards(t)
	later := tensor("a", F32, 99, 1)
	var b bytes.Buffer
	require.NoError(t, Write(&b, nil, []Named{later}))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "model-00003.safetensors"), b.Bytes(), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "consolidated.00.safetensors"), []byte("other names"), 0o600))
	want := sampleTensors()
	want[0] = later
	weights["a"] = "model-00003.safetensors"
	requireFolder(t, dir, sampleTensors()) // the index names two of the three
	require.NoError(t, os.Remove(filepath.Join(dir, IndexFile)))
	requireFolder(t, dir, want)
	require.NoError(t, writeIndex(filepath.Join(dir, IndexFile), weights, 0))
	requireFolder(t, dir, want)
}

// requireFolder opens a folder and looks for exactly these tensors.
func requireFolder(t *testing.T, dir string, want []Named) {
	t.Helper()
	c, err := Open(dir)
	require.NoError(t, err)
	requireTensors(t, c, want)
	require.NoError(t, c.Close())
}

// TestLinksAreFollowed, as a hub's cache has them.
func TestLinksAreFollowed(t *testing.T) {
	dir, _ := twoShards(t)
	links := t.TempDir()
	for _, name := range []string{IndexFile, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"} {
		require.NoError(t, os.Symlink(filepath.Join(dir, name), filepath.Join(links, name)))
	}
	requireFolder(t, links, sampleTensors())
}

// TestLinkToNothingIsNoFile: what a cache lacks is not there, and only who needs it
// finds out.
func TestLinkToNothingIsNoFile(t *testing.T) {
	dir, _ := twoShards(t)
	second := filepath.Join(dir, "model-00002-of-00002.safetensors")
	require.NoError(t, os.Remove(second))
	require.NoError(t, os.Symlink(filepath.Join(dir, "blob"), second))
	c, err := Open(dir)
	require.NoError(t, err)
	require.True(t, c.Has("a"))
	_, err = c.Tensor("c")
	require.ErrorContains(t, err, "which is not in the folder")
	require.NoError(t, c.Close())
	require.NoError(t, os.Symlink(filepath.Join(dir, "blob"), filepath.Join(dir, SingleFile)))
	_, err = Open(dir)
	require.ErrorContains(t, err, "is a link to a file that is not there: the download is not complete")
}

// TestPointerIsNoFile: Git leaves a small text in the place of a file.
func TestPointerIsNoFile(t *testing.T) {
	dir := t.TempDir()
	text := "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, SingleFile), []byte(text), 0o600))
	_, err := Open(dir)
	require.ErrorContains(t, err, `run "git lfs pull"`)
	require.NoError(t, os.Rename(filepath.Join(dir, SingleFile), filepath.Join(dir, IndexFile)))
	_, err = Open(dir)
	require.ErrorContains(t, err, `run "git lfs pull"`)
}

// TestFileIsCutWhileOpen: whoever reads gets an error with the file's name.
func TestFileIsCutWhileOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), SingleFile)
	big := tensor("big", F32, 0, 1<<20)
	require.NoError(t, WriteDir(filepath.Dir(path), nil, []Named{big}, 0))
	c, err := OpenFile(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	require.NoError(t, os.Truncate(path, 1<<20))
	want := path + `: tensor "big": the file ends at byte 1048576: it has been cut short`
	_, err = c.Tensor("big")
	require.ErrorContains(t, err, want)
	_, err = c.Load(t.Context(), []Job{{Refs: []model.Ref{refTo(big)}, Do: func([]Tensor) error { return nil }}}, 2,
		nil)
	require.ErrorContains(t, err, want)
	_, err = c.Digests(t.Context(), []model.Ref{refTo(big)}, 2)
	require.ErrorContains(t, err, want)
	_, err = c.Same("big", "big")
	require.ErrorContains(t, err, want)
}

// TestClosedIsAnError.
func TestClosedIsAnError(t *testing.T) {
	dir, _ := twoShards(t)
	onDisk, err := Open(dir)
	require.NoError(t, err)
	for _, c := range []*Checkpoint{onDisk, inMemory(t, sampleTensors())} {
		require.NoError(t, c.Close())
		_, err := c.Tensor("a")
		require.ErrorContains(t, err, "closed")
	}
}

func TestBrokenIndex(t *testing.T) {
	for text, want := range map[string]string{
		``:                                 "is not a JSON object",
		`{`:                                "the index is not valid JSON: unexpected end of JSON input (at byte 1)",
		`{"weight_map": {"a": `:            "is not valid JSON",
		`{"metadata": }`:                   "is not valid JSON",
		`{}`:                               "names no tensor",
		`{"weight_map": []}`:               "weight_map is not a JSON object",
		`{"weight_map": {"a": 1}}`:         `tensor "a": weight_map does not give`,
		`{"weight_map": {}}`:               "names no tensor",
		`{"weight_map":{"a":"f","a":"g"}}`: "weight_map.a is given twice (at byte 27)",
		`{"weight_map":{"a":"f"},"weight_map":{"a":"g"}}`: "weight_map is given twice (at byte 37)",
	} {
		_, err := parseIndex("index", []byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

// FuzzIndex: no index panics, allocates without bound or names a file outside
// its folder, and what is accepted reads back from what is written.
func FuzzIndex(f *testing.F) {
	seed, err := encodeIndex(map[string]string{"a": "model-00001-of-00002.safetensors",
		"b": "model-00002-of-00002.safetensors"}, 9)
	require.NoError(f, err)
	f.Add(seed)
	f.Add(seed[:len(seed)/2])
	f.Add([]byte(`{"weight_map":{"a":"../x"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		ix, err := parseIndex("index", text)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, 64<<10+100*uint64(len(text)))
		if err != nil {
			require.ErrorContains(t, err, "index")
			return
		}
		for _, name := range ix.files {
			require.Equal(t, filepath.Base(name), name)
		}
		again, err := encodeIndex(ix.weights, 0)
		require.NoError(t, err)
		back, err := parseIndex("index", again)
		require.NoError(t, err)
		require.Equal(t, ix, back)
	})
}

// FuzzFolder: whatever an index says, a folder opens with what its files hold, or
// not at all; nothing outside of it is read.
func FuzzFolder(f *testing.F) {
	for _, text := range []string{
		`{"weight_map":{"a":"model-1.safetensors"}}`,
		`{"weight_map":{"a":"model-2.safetensors","b":"none.safetensors"}}`,
		`{"weight_map":{"x":"none"}}`, `{"weight_map":{"x":"../model-1.safetensors"}}`, `{`, ``,
	} {
		f.Add([]byte(text))
	}
	dir := f.TempDir()
	for i, list := range [][]Named{sampleTensors()[:2], sampleTensors()[2:]} {
		var b bytes.Buffer
		require.NoError(f, Write(&b, nil, list))
		require.NoError(f, os.WriteFile(filepath.Join(dir, fmt.Sprintf("model-%d.safetensors", i+1)), b.Bytes(), 0o600))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, IndexFile), text, 0o600))
		c, err := Open(dir)
		if err != nil {
			require.ErrorContains(t, err, IndexFile)
			return
		}
		defer func() { require.NoError(t, c.Close()) }()
		require.Subset(t, []string{"a", "b", "c", "d"}, c.Names())
		require.NotEmpty(t, c.Names())
		for _, name := range []string{"a", "c", "x"} {
			_, err := c.Tensor(name)
			require.Equal(t, c.Has(name), err == nil)
			_ = c.Explain([]string{name})
		}
	})
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(dir)
	require.ErrorContains(t, err, dir+" holds no model.safetensors")
	require.NoError(t, os.Mkdir(filepath.Join(dir, SingleFile), 0o700))
	_, err = Open(dir)
	require.ErrorContains(t, err, "is not a regular file")
}

func refTo(n Named) model.Ref { return model.Ref{Name: n.Name, Whole: n.Shape, Shape: n.Shape} }

func inMemory(t *testing.T, tensors []Named) *Checkpoint {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, Write(&b, nil, tensors))
	c, err := OpenBytes("memory", b.Bytes())
	require.NoError(t, err)
	return c
}

func TestWeightIsAPart(t *testing.T) {
	c := inMemory(t, append(sampleTensors(), Named{"i", Tensor{"I64", []int{1}, make([]byte, 8)}}))
	w, err := c.Weight(model.Ref{Name: "c", Whole: []int{4, 2, 3}, Shape: []int{2, 3}, Offset: 12})
	require.NoError(t, err)
	all, err := c.Tensor("c")
	require.NoError(t, err)
	require.Equal(t, Tensor{F16, []int{2, 3}, all.Data[24:36]}, w)

	for want, r := range map[string]model.Ref{
		`no tensor "x", of shape [3]`:                  {Name: "x", Whole: []int{3}, Shape: []int{3}},
		"has shape [3], and the model's is [4]":        {Name: "a", Whole: []int{4}, Shape: []int{4}},
		"type I64; only F32, F16 and BF16":             {Name: "i", Whole: []int{1}, Shape: []int{1}},
		"6 bytes, and bytes 2 to 8 are asked for":      {Name: "a", Whole: []int{3}, Shape: []int{3}, Offset: 1},
		`memory: tensor "a": has 6 bytes, and bytes -`: {Name: "a", Whole: []int{3}, Shape: []int{3}, Offset: -1},
	} {
		_, err := c.Weight(r)
		require.ErrorContains(t, err, want)
	}
}

func TestLoad(t *testing.T) {
	tensors := sampleTensors()
	c := inMemory(t, tensors)
	var bytesSeen atomic.Int64
	job := func(list ...Named) Job {
		j := Job{Do: func(got []Tensor) error {
			for i, x := range got {
				if !bytes.Equal(x.Data, list[i].Data) {
					return fmt.Errorf("%s differs", list[i].Name)
				}
				bytesSeen.Add(int64(len(x.Data)))
			}
			return nil
		}}
		for _, n := range list {
			j.Refs = append(j.Refs, refTo(n))
		}
		return j
	}
	var done []int64
	loaded, err := c.Load(context.Background(), []Job{job(tensors[2]), job(tensors[1], tensors[0]), job()}, 3,
		func(d, total int64) {
			require.Equal(t, int64(6+16+48), total)
			done = append(done, d)
		})
	require.NoError(t, err)
	require.IsIncreasing(t, done)
	require.Equal(t, int64(70), done[len(done)-1])
	require.Equal(t, int64(70), bytesSeen.Load())
	for _, i := range []int{0, 1, 2} {
		require.Equal(t, Digests{tensors[i].Digest()}, loaded.Digests([]model.Ref{refTo(tensors[i])}))
	}
}

func TestLoadStops(t *testing.T) {
	c := inMemory(t, sampleTensors())
	ran := 0
	job := func(n Named, err error) Job {
		return Job{[]model.Ref{refTo(n)}, func([]Tensor) error { ran++; return err }}
	}
	bad := errors.New("no memory")
	jobs := []Job{job(sampleTensors()[0], nil), job(sampleTensors()[1], bad), job(sampleTensors()[2], nil)}
	_, err := c.Load(context.Background(), jobs, 1, nil)
	require.ErrorIs(t, err, bad)
	require.ErrorContains(t, err, `tensor "b" of memory`)
	require.Equal(t, 1, ran, "b comes first in the file, and nothing starts after its error")

	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = c.Load(ended, jobs[:1], 1, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, ran)

	missing := Job{Refs: []model.Ref{{Name: "x"}}}
	_, err = c.Load(context.Background(), []Job{jobs[0], missing}, 1, nil)
	require.ErrorContains(t, err, `"x"`)
	require.Equal(t, 1, ran, "all weights are checked first")
}
