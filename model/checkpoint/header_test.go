package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// framed puts a header's length before it, and n bytes of data after it.
func framed(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

func parse(file []byte) (*header, error) { return parseHeader("x.safetensors", file, int64(len(file))) }

func TestHeader(t *testing.T) {
	h, err := parse(framed(`{"b":{"dtype":"F32","shape":[],"data_offsets":[12,16]},"__metadata__":{"format":"pt"},
		"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"empty":{"shape":[0,9],"data_offsets":[12,12],"dtype":"F64"}}   `, 16))
	require.NoError(t, err)
	require.Equal(t, map[string]string{"format": "pt"}, h.metadata)
	require.Equal(t, []entry{
		{"a", BF16, []int{2, 3}, 0, 12}, {"empty", "F64", []int{0, 9}, 12, 12}, {"b", F32, []int{}, 12, 16},
	}, h.entries)
}

// one is a header with one tensor.
func one(fields string) string { return `{"a":{` + fields + `}}` }

// TestBrokenHeaders: every fault names the file, the tensor where there is one,
// and the byte.
func TestBrokenHeaders(t *testing.T) {
	good := `"dtype":"F32","shape":[2],"data_offsets":[0,8]`
	for _, c := range []struct {
		file   []byte
		tensor string
		offset int64
		want   string
	}{
		{nil, "", 0, "0 bytes, too few"},
		{[]byte("1234567"), "", 0, "7 bytes, too few"},
		{[]byte("<!doctype html>"), "", 0, "the limit is 33554432: this is no safetensors file"},
		{framed(one(good), 8)[:30], "", 8, "length is 54, and 22 bytes follow it: the file is truncated"},
		{framed(`[]`, 0), "", 8, "not a JSON object"},
		{framed(`{"a":`, 0), "", 13, "the header is not valid JSON: unexpected end of JSON input"},
		{framed(`{"a":{}`, 0), "", 15, "the header is not valid JSON: unexpected end of JSON input"},
		{framed(`{"a":{}}`, 0), "a", 13, "dtype, shape and two data_offsets must be given"},
		{framed(one(good)+"x", 8), "", 63, "invalid character 'x' after top-level value"},
		{framed(strings.TrimSuffix(one(good), "}"), 8), "", 61,
			"the header is not valid JSON: unexpected end of JSON input"},
		{framed(`{"a":{`+good+`},"a":{`+good+`}}`, 8), "", 66, "a is given twice"},
		{framed(`{"__metadata__":{"a":1}}`, 0), "", 24, "does not map strings to strings"},
		{framed(`{"__metadata__":{"a":"","a":""}}`, 0), "", 36, "__metadata__.a is given twice"},
		{framed(`{"__metadata__":[]}`, 0), "", 24, "does not map strings to strings"},
		{framed(`{"a":[]}`, 0), "a", 13, "is a list, and no object that describes a tensor"},
		{framed(one(`"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,4]`), 4), "", 36, "a.dtype is given twice"},
		{framed(one(good+`,"extra":1`), 8), "a", 13, `a field "extra"`},
		{framed(one(`"DTYPE":"F32","shape":[2],"data_offsets":[0,8]`), 8), "a", 13, `a field "DTYPE"`},
		{framed(one(`"dtype":"Q4","shape":[2],"data_offsets":[0,8]`), 8), "a", 13, `the type "Q4" is not known`},
		{framed(one(`"dtype":"F32","shape":[-2],"data_offsets":[0,8]`), 8), "a", 13, "negative or too large"},
		{framed(one(`"dtype":"F32","shape":[2147483647,2147483647,2147483647],"data_offsets":[0,8]`), 8), "a", 13, "negative or too large"},
		{framed(one(`"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]`), 0), "a", 13, "negative or too large"},
		{framed(one(`"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]`), 4), "a", 13, "more than 8 dimensions"},
		{framed(one(`"dtype":"F32","shape":[3],"data_offsets":[0,8]`), 8), "a", 13, "[0, 8], and F32 of shape [3] needs 12 bytes"},
		{framed(one(`"dtype":"F32","shape":[2],"data_offsets":[8,0]`), 8), "a", 13, "[8, 0]"},
		{framed(one(`"dtype":"F32","shape":[2],"data_offsets":[-8,0]`), 8), "a", 13, "[-8, 0]"},
		{framed(one(`"dtype":"F32","shape":[2.5],"data_offsets":[0,8]`), 8), "a", 13, "not described as a tensor"},
		{framed(one(good), 4), "a", 62, "ends at byte 70, and the file has 66: it is truncated"},
		{framed(one(good), 9), "", 70, "1 bytes follow the last tensor"},
		{framed(one(`"dtype":"F32","shape":[2],"data_offsets":[4,12]`), 12), "a", 63, "4 bytes before it belong to no tensor"},
		{framed(`{"a":{`+good+`},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}`, 12), "b", 120,
			`overlaps tensor "a", which ends at byte 124`},
	} {
		_, err := parse(c.file)
		var f *FormatError
		require.ErrorAs(t, err, &f, "%q", c.file)
		require.Equal(t, "x.safetensors", f.File)
		require.Equal(t, c.tensor, f.Tensor, "%v", err)
		require.Equal(t, c.offset, f.Offset, "%v", err)
		require.Contains(t, err.Error(), c.want)
	}
}

func TestHugeNumbersAreRefused(t *testing.T) {
	_, err := parse(framed(one(`"dtype":"F32","shape":[2],"data_offsets":[0,99999999999999999999]`), 8))
	require.ErrorContains(t, err, "not described as a tensor")
	_, err = parse(framed(one(`"dtype":"F32","shape":[2],"data_offsets":[9223372036854775800,9223372036854775807]`), 8))
	require.ErrorContains(t, err, "needs 8 bytes")
}

func TestEncodedHeaderReadsBack(t *testing.T) {
	entries := []entry{{"é\"<", F16, []int{3}, 0, 6}, {"z", "I8", []int{1, 2}, 6, 8}}
	text, err := encodeHeader(entries, map[string]string{"k": "v"})
	require.NoError(t, err)
	require.Zero(t, len(text)%8, "the data is aligned")
	h, err := parse(append(text, make([]byte, 8)...))
	require.NoError(t, err)
	require.Equal(t, entries, h.entries)
	require.Equal(t, map[string]string{"k": "v"}, h.metadata)
	text, err = encodeHeader(nil, nil)
	require.NoError(t, err)
	h, err = parse(text)
	require.NoError(t, err)
	require.Empty(t, h.entries)
}

// TestHeaderIsBounded: in tensors and in the length of names, before either costs
// memory; 100,000 empty tensors are as many as a large model has, and cost in
// proportion.
func TestHeaderIsBounded(t *testing.T) {
	empty := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`, i)
		}
		return "{" + b.String()[1:] + "}"
	}
	text := empty(100_000)
	h, allocated, err := measured(framed(text, 0))
	require.NoError(t, err)
	require.Len(t, h.entries, 100_000)
	require.Less(t, allocated, 20*uint64(len(text)))
	for want, text := range map[string]string{
		"more than 262144 tensors":                 empty(maxTensors + 1),
		"the header has more than 262145 fields":   empty(maxTensors + 2),
		"a name has 1025 bytes, the limit is 1024": `{"` + strings.Repeat("a", maxName+1) + `":{}}`,
		"more than 8 dimensions": one(`"dtype":"F32","data_offsets":[0,0],"shape":[` +
			strings.Repeat("1,", 1<<20) + `1]`),
		"__metadata__ has more than 262145 fields": `{"__metadata__":{` +
			strings.ReplaceAll(empty(maxTensors + 2)[1:], `{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`, `""`) +
			`}`,
		"the header nests deeper than 16 levels": `{"a":` + strings.Repeat("[", 1<<20),
	} {
		_, allocated, err := measured(framed(text, 0))
		require.ErrorContains(t, err, want)
		require.Less(t, allocated, 1<<16+20*uint64(len(text)))
	}
}

// measured parses a file, and counts the bytes that were allocated.
func measured(file []byte) (*header, uint64, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	h, err := parse(file)
	runtime.ReadMemStats(&after)
	return h, after.TotalAlloc - before.TotalAlloc, err
}

// TestIntegers reads lists as encoding/json does, without its null for 0.
func TestIntegers(t *testing.T) {
	for _, text := range []string{"[]", "[ 1 , 2 ]", "[-1]", "[-0]", "[1.0]", "[1e3]", "[9223372036854775807]",
		"[9223372036854775808]", `["1"]`, "[[1]]", "{}", "1"} {
		var want []int64
		wantErr := json.Unmarshal([]byte(text), &want)
		got, ok := integers([]byte(text))
		require.Equal(t, wantErr == nil, ok, text)
		if ok {
			require.Equal(t, want, got, text)
		}
	}
	_, ok := integers([]byte("[null]"))
	require.False(t, ok)
}

// FuzzHeader: no file panics or allocates more than in proportion to its
// header, and what is accepted reads back from what is written.
func FuzzHeader(f *testing.F) {
	for _, seed := range [][]byte{
		framed(`{}`, 0),
		framed(one(`"dtype":"F32","shape":[2],"data_offsets":[0,8]`), 8),
		framed(`{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"I8","shape":[],"data_offsets":[12,13]}}  `, 13),
		framed(one(`"dtype":"F4","shape":[3],"data_offsets":[0,2]`), 2),
	} {
		f.Add(seed)
		for _, cut := range []int{4, 8, len(seed) / 2, len(seed) - 1} {
			f.Add(seed[:min(cut, len(seed))])
		}
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		h, err := parse(file)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, 64<<10+100*uint64(len(file)))
		if err != nil {
			require.ErrorContains(t, err, "x.safetensors")
			return
		}
		require.True(t, json.Valid(file[lengthBytes:h.data]), "the header is JSON")
		text, err := encodeHeader(h.entries, h.metadata)
		require.NoError(t, err)
		back, err := parse(append(text, file[h.data:]...))
		require.NoError(t, err, "%q", text)
		require.Equal(t, fmt.Sprint(h.entries, h.metadata), fmt.Sprint(back.entries, back.metadata))
	})
}
