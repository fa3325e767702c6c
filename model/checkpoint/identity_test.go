package checkpoint

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/model"
)

// TestDigestIsOfAllBytes changes a weight everywhere.
func TestDigestIsOfAllBytes(t *testing.T) {
	big := tensor("big", F32, 0, 300, 1024)
	base := big.Digest()
	for i := 0; i < len(big.Data); i += 4093 {
		big.Data[i] ^= 4
		require.NotEqual(t, base, big.Digest(), "byte %d", i)
		big.Data[i] ^= 4
	}
	require.Equal(t, base, big.Digest())
	require.NotEqual(t, base, Tensor{F32, []int{1024, 300}, big.Data}.Digest(), "another shape")
	half := Tensor{BF16, big.Shape, big.Data[:len(big.Data)/2]}
	require.NotEqual(t, half.Digest(), Tensor{F16, half.Shape, half.Data}.Digest(), "another type")
}

// TestDigestsAreThoseOfWhatIsLoaded, read in pieces from a file, in memory, or as a
// part of a joint tensor.
func TestDigestsAreThoseOfWhatIsLoaded(t *testing.T) {
	joint := tensor("joint", F32, 5, 2, 1<<18, 2)
	part := Ref("joint", joint.Shape, 1<<19, 1<<18, 2)
	alone := Tensor{F32, part.Shape, joint.Data[1<<21:]}
	dir := t.TempDir()
	require.NoError(t, WriteDir(dir, nil, append(sampleTensors(), joint), 100))
	onDisk, err := Open(dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, onDisk.Close()) }()
	refs := []model.Ref{part, refTo(sampleTensors()[3]), refTo(sampleTensors()[0])}
	want := Digests{alone.Digest(), sampleTensors()[3].Digest(), sampleTensors()[0].Digest()}
	for _, c := range []*Checkpoint{onDisk, inMemory(t, append(sampleTensors(), joint))} {
		got, err := c.Digests(t.Context(), refs, 3)
		require.NoError(t, err)
		require.Equal(t, want, got)
		loaded, err := c.Load(t.Context(), []Job{{refs[:1], ignore}, {refs[1:], ignore}}, 2, nil)
		require.NoError(t, err)
		require.Equal(t, want, loaded.Digests(refs))
	}
}

func ignore([]Tensor) error { return nil }

// Ref names a part of a tensor.
func Ref(name string, whole []int, offset int64, shape ...int) model.Ref {
	return model.Ref{Name: name, Whole: whole, Shape: shape, Offset: offset}
}

func TestSame(t *testing.T) {
	a, b := tensor("a", F32, 0, 1<<19), tensor("b", F32, 0, 1<<19)
	last := tensor("last", F32, 0, 1<<19)
	last.Data[len(last.Data)-1]++
	c := inMemory(t, []Named{a, b, last, tensor("short", F32, 0, 3), tensor("half", BF16, 0, 1<<19)})
	for other, want := range map[string]bool{"b": true, "last": false, "short": false, "half": false} {
		same, err := c.Same("a", other)
		require.NoError(t, err)
		require.Equal(t, want, same, other)
	}
	_, err := c.Same("a", "none")
	require.ErrorContains(t, err, `no tensor "none"`)
}

// TestLedger: the first word on a weight counts, and who disagrees is told the
// weight and both digests.
func TestLedger(t *testing.T) {
	l := NewLedger()
	require.NoError(t, l.Add("attention-0", []string{"a", "b"}, Digests{1, 2}))
	require.NoError(t, l.Add("expert-0", []string{"c"}, Digests{3}))
	require.NoError(t, l.Add("attention-1", []string{"a", "b"}, Digests{1, 2}))
	err := l.Add("expert-1", []string{"d", "c", "b"}, Digests{4, 5, 6})
	var differ *DifferError
	require.ErrorAs(t, err, &differ)
	require.Equal(t, &DifferError{Names: []string{"c", "b"}, Known: 3, Given: 5, By: "expert-0", Other: "expert-1"},
		differ)
	require.ErrorContains(t, err, "tensor c differs: its digest is 0000000000000003 at expert-0 and 0000000000000005 at expert-1, and 1 others differ: b")
	_, known := l.Sum([]string{"d"})
	require.False(t, known, "nothing of a refused list is kept")
	require.ErrorContains(t, l.Add("x", []string{"a"}, Digests{1, 2}),
		"x gives the digests of 2 weights, and its part has 1")

	sum, known := l.Sum([]string{"a", "b"})
	require.True(t, known)
	require.Equal(t, Digests{1, 2}.Sum([]string{"a", "b"}), sum)
	require.NotEqual(t, sum, Digests{1, 2}.Sum([]string{"a", "c"}))
	require.NotEqual(t, sum, Digests{1, 3}.Sum([]string{"a", "b"}))
}

// BenchmarkDigests reads a file that is in the page cache.
func BenchmarkDigests(b *testing.B) {
	dir := b.TempDir()
	var list []Named
	var refs []model.Ref
	for i := range 8 {
		n := tensor(string(rune('a'+i)), BF16, i, 4<<20)
		list, refs = append(list, n), append(refs, refTo(n))
	}
	require.NoError(b, WriteDir(dir, nil, list, 0))
	info, err := os.Stat(filepath.Join(dir, SingleFile))
	require.NoError(b, err)
	c, err := Open(dir)
	require.NoError(b, err)
	defer c.Close()
	b.SetBytes(info.Size())
	for b.Loop() {
		_, err := c.Digests(b.Context(), refs, 2)
		require.NoError(b, err)
	}
}
