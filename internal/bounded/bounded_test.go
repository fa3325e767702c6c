package bounded

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

func TestRead(t *testing.T) {
	for _, length := range []int{0, 1, 9, 10} {
		data, err := Read(strings.NewReader(strings.Repeat("x", length)), 10)
		require.NoError(t, err)
		require.Len(t, data, length)
	}
	data, err := Read(strings.NewReader(strings.Repeat("x", 11)), 10)
	require.Nil(t, data)
	var long *TooLong
	require.ErrorAs(t, err, &long)
	require.EqualError(t, err, "has more than 10 bytes")
	broken := errors.New("broken")
	_, err = Read(iotest.ErrReader(broken), 10)
	require.ErrorIs(t, err, broken)
}

// TestReadIsBounded: a stream without an end is read to the limit alone.
func TestReadIsBounded(t *testing.T) {
	endless := &counted{}
	_, err := Read(endless, 1000)
	require.ErrorContains(t, err, "more than 1000 bytes")
	require.LessOrEqual(t, endless.read, 1001)
}

type counted struct{ read int }

func (c *counted) Read(p []byte) (int, error) {
	c.read += len(p)
	return len(p), nil
}

func TestReadFile(t *testing.T) {
	dir := fstest.MapFS{"a": {Data: []byte("12345")}}
	data, err := ReadFile(dir, "a", 5)
	require.NoError(t, err)
	require.Equal(t, "12345", string(data))
	_, err = ReadFile(dir, "a", 4)
	require.EqualError(t, err, "a: has more than 4 bytes")
	_, err = ReadFile(dir, "b", 4)
	require.ErrorIs(t, err, fs.ErrNotExist)
}
