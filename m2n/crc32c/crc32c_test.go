package crc32c

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCheck is the check value that the catalogue of CRCs gives of CRC-32/ISCSI.
func TestCheck(t *testing.T) {
	require.Equal(t, uint32(0xe3069283), Update(0, []byte("123456789")))
}

// bitwise is the definition: a division, bit by bit.
func bitwise(crc uint32, b []byte) uint32 {
	crc = ^crc
	for _, v := range b {
		crc ^= uint32(v)
		for range 8 {
			crc = crc>>1 ^ crc&1*0x82f63b78
		}
	}
	return ^crc
}

func random(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(b) // cannot fail
	return b
}

func TestUpdate(t *testing.T) {
	data := random(5000)
	for n := range 4900 {
		at, crc := n%61, uint32(n)*0x9e3779b9
		b := data[at:][:n]
		require.Equal(t, portable(crc, b), Update(crc, b), "%d bytes at %d", n, at)
		if n < 1100 {
			require.Equal(t, bitwise(crc, b), Update(crc, b), "%d bytes at %d", n, at)
		}
	}
}

// FuzzUpdate: whatever the bytes, and wherever they are cut.
func FuzzUpdate(f *testing.F) {
	f.Add(uint32(0), random(1000), uint16(600))
	f.Add(uint32(7), make([]byte, 2048), uint16(1))
	f.Fuzz(func(t *testing.T, crc uint32, b []byte, cut uint16) {
		want := crc32.Update(crc, castagnoli, b)
		at := min(int(cut), len(b))
		require.Equal(t, want, Update(crc, b))
		require.Equal(t, want, Update(Update(crc, b[:at]), b[at:]))
	})
}

// BenchmarkUpdate compares with hash/crc32, in the caches and in memory.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{1 << 10, 32 << 10, 256 << 10, 8 << 20, 64 << 20} {
		data := random(n)
		for name, f := range map[string]func(uint32, []byte) uint32{"this": Update, "hash": portable} {
			b.Run(fmt.Sprintf("%s/%dKB", name, n>>10), func(b *testing.B) {
				b.SetBytes(int64(n))
				for b.Loop() {
					f(0, data)
				}
			})
		}
	}
}
