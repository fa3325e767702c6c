package kvcache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// memory keeps pages in a map; a page of the test's caches has three bytes.
type memory map[int32][]byte

func (m memory) PageBytes() int { return 3 }

func (m memory) ReadPage(p int32, dst []byte) error {
	if m[p] == nil {
		return errors.New("never written")
	}
	copy(dst, m[p])
	return nil
}

func (m memory) WritePage(p int32, src []byte) error {
	m[p] = bytes.Clone(src)
	return nil
}

// filled returns a cache that holds the full pages of a sequence, and a memory in
// which page i has the bytes i, i, i.
func filled(t testing.TB, pages int, tokens []int32) (*Cache, memory) {
	c := newCache(t, pages)
	_, err := c.Acquire(1, nil, len(tokens))
	require.NoError(t, err)
	m := memory{}
	for i, p := range c.Pages(1) {
		m[p] = bytes.Repeat([]byte{byte(i)}, 3)
	}
	c.Commit(1, tokens)
	c.Free(1)
	return c, m
}

func export(t testing.TB, tokens []int32, from int) []byte {
	c, m := filled(t, 8, tokens)
	var out bytes.Buffer
	n, err := c.Export(&out, m, tokens, from)
	require.NoError(t, err)
	require.Equal(t, max(0, len(tokens)/4-from), n)
	require.Equal(t, uint64(n), c.Usage().Exported)
	return out.Bytes()
}

func TestExportAndImport(t *testing.T) {
	tokens := upTo(14)
	c := newCache(t, 8)
	m := memory{}
	n, err := c.Import(bytes.NewReader(export(t, tokens, 0)), m)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.NoError(t, c.Check())
	require.Equal(t, Usage{Free: 5, Cached: 3, Counters: Counters{Imported: 3}}, c.Usage())
	cached, err := c.Acquire(7, testID.Keys(nil, tokens), 14)
	require.NoError(t, err)
	require.Equal(t, 12, cached)
	for i, p := range c.Pages(7)[:3] {
		require.Equal(t, bytes.Repeat([]byte{byte(i)}, 3), m[p])
	}
	n, err = c.Import(bytes.NewReader(export(t, tokens, 0)), m)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.Equal(t, uint64(3), c.Usage().Imported, "it had them")
	require.NoError(t, c.Check())
}

func TestImportOfTheRest(t *testing.T) {
	tokens := upTo(12)
	c, m := filled(t, 3, tokens[:4])
	n, err := c.Import(bytes.NewReader(export(t, tokens, 1)), m)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, 12, c.Match(testID.Keys(nil, tokens), 13))
	require.NoError(t, c.Check())

	_, err = newCache(t, 3).Import(bytes.NewReader(export(t, tokens, 1)), m)
	require.ErrorContains(t, err, "that is not here")
}

func TestImportWithoutRoom(t *testing.T) {
	tokens := upTo(12)
	c := newCache(t, 3)
	_, err := c.Acquire(1, nil, 4)
	require.NoError(t, err)
	n, err := c.Import(bytes.NewReader(export(t, tokens, 0)), memory{})
	require.ErrorIs(t, err, ErrNoPages)
	require.Equal(t, 2, n)
	require.Equal(t, 8, c.Match(testID.Keys(nil, tokens), 13))
	require.Zero(t, c.Usage().Evictions, "its own pages stay")
	require.NoError(t, c.Check())
}

// failing is a memory that fails to write its second page.
type failing struct{ memory }

func (f failing) WritePage(p int32, src []byte) error {
	if len(f.memory) == 1 {
		return errors.New("no such page")
	}
	return f.memory.WritePage(p, src)
}

func TestImportIntoFailingMemory(t *testing.T) {
	c := newCache(t, 4)
	_, err := c.Import(bytes.NewReader(export(t, upTo(8), 0)), failing{memory{}})
	require.ErrorContains(t, err, "page 1 of 2: no such page")
	require.Equal(t, Usage{Free: 3, Cached: 1, Counters: Counters{Imported: 1}}, c.Usage())
	require.NoError(t, c.Check())
}

func TestReaderNamesBothValues(t *testing.T) {
	blob := export(t, upTo(8), 0)
	for want, id := range map[string]Identity{
		`pages of model "m", this is model "n"`:              {"n", "f32", 4},
		`pages of numerics "f32", these are numerics "bf16"`: {"m", "bf16", 4},
		`pages of 4 tokens, these are of 8`:                  {"m", "f32", 8},
	} {
		_, err := NewReader(bytes.NewReader(blob), id, 3)
		require.ErrorContains(t, err, want)
	}
	_, err := NewReader(bytes.NewReader(blob), testID, 4)
	require.ErrorContains(t, err, "pages of 3 bytes, these are of 4")
}

// readAll reads pages until the end or an error.
func readAll(blob []byte) (parent Key, pages []Page, rest int, err error) {
	r := bytes.NewReader(blob)
	d, err := NewReader(r, testID, 3)
	if err != nil {
		return Key{}, nil, 0, err
	}
	for {
		p, err := d.Next()
		if errors.Is(err, io.EOF) {
			return d.Parent(), pages, r.Len(), nil
		}
		if err != nil {
			return d.Parent(), pages, r.Len(), err
		}
		pages = append(pages, Page{p.Key, append([]int32(nil), p.Tokens...), bytes.Clone(p.Data)})
	}
}

func TestEveryDamageIsSeen(t *testing.T) {
	blob := export(t, upTo(8), 0)
	for n := range blob {
		_, _, _, err := readAll(blob[:n])
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d bytes", n)
		for bit := range 8 {
			bad := bytes.Clone(blob)
			bad[n] ^= 1 << bit
			_, _, _, err := readAll(bad)
			require.Error(t, err, "bit %d of byte %d", bit, n)
		}
	}
}

// TestTokensMustHaveTheirKey changes a page's tokens and repairs its checksum: the
// key no longer matches.
func TestTokensMustHaveTheirKey(t *testing.T) {
	blob := export(t, upTo(4), 0)
	page := blob[len(blob)-(16+16+3+4):]
	page[16]++
	copy(page, appendChecksum(bytes.Clone(page[:len(page)-4])))
	_, _, _, err := readAll(blob)
	require.ErrorContains(t, err, "its tokens have")
}

func FuzzReader(f *testing.F) {
	blob := export(f, upTo(8), 0)
	f.Add(blob)
	f.Add(export(f, upTo(12), 2))
	f.Add(export(f, upTo(3), 0))
	f.Add(blob[:len(blob)/2])
	f.Add(blob[:20])
	many := bytes.Clone(blob) // a header that announces 2³² − 1 pages
	binary.LittleEndian.PutUint32(many[4+2+2+4+8:], 1<<32-1)
	copy(many[:48], appendChecksum(bytes.Clone(many[:44])))
	f.Add(many)
	f.Fuzz(func(t *testing.T, blob []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		parent, pages, rest, err := readAll(blob)
		runtime.ReadMemStats(&after)
		// readAll keeps copies of at most five times the input's size.
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<10+8*len(blob)))
		if err != nil {
			return
		}
		var out bytes.Buffer
		w, err := NewWriter(&out, testID, 3, parent, len(pages))
		require.NoError(t, err)
		for _, p := range pages {
			require.NoError(t, w.Write(p.Tokens, p.Data))
		}
		require.Equal(t, blob[:len(blob)-rest], out.Bytes())
	})
}
