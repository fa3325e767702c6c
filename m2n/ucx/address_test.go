package ucx

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAddress(t *testing.T) {
	good := encodeAddress([]byte("worker"))
	got, err := decodeAddress(good)
	require.NoError(t, err)
	require.Equal(t, []byte("worker"), got)

	flipped := bytes.Clone(good)
	flipped[6] ^= 1
	other := append([]byte("UCX2"), good[4:]...)
	for name, tc := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":   {nil, "has 0 bytes, want 9 to 65536"},
		"none":    {encodeAddress(nil), "has 8 bytes"},
		"long":    {make([]byte, maxAddress+1), "has 65537 bytes"},
		"another": {other, `begins with "UCX2", want "UCX1"`},
		"flipped": {flipped, "the checksum of the peer's address is "},
		"cut":     {good[:len(good)-1], "the checksum of the peer's address is "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := decodeAddress(tc.b)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

// FuzzAddress: what is accepted is what was encoded, and nothing of it is copied.
func FuzzAddress(f *testing.F) {
	good := encodeAddress([]byte("worker"))
	f.Add(good)
	f.Add(good[:5])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		worker, err := decodeAddress(b)
		if err != nil {
			return
		}
		require.Equal(t, b, encodeAddress(worker))
		require.Same(t, &b[len(addressMagic)], &worker[0])
	})
}
