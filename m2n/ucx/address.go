package ucx

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/tandem-moe/tandem/m2n/crc32c"
)

// An address on the wire is "UCX1", the worker's address, and a CRC32C of both. UCX
// checks nothing: it would crash on bytes that are no address of a worker.
const (
	addressMagic = "UCX1"
	sumBytes     = 4
)

// maxAddress bounds an address. The address of a worker with many devices has some
// kilobytes.
const maxAddress = 64 << 10

func encodeAddress(worker []byte) []byte {
	b := slices.Concat([]byte(addressMagic), worker)
	return binary.LittleEndian.AppendUint32(b, crc32c.Update(0, b))
}

// decodeAddress returns the worker's address, which is not empty.
func decodeAddress(b []byte) ([]byte, error) {
	if len(b) <= len(addressMagic)+sumBytes || len(b) > maxAddress {
		return nil, fmt.Errorf("the peer's address has %d bytes, want %d to %d", len(b), len(addressMagic)+sumBytes+1, maxAddress)
	}
	body, sum := b[:len(b)-sumBytes], binary.LittleEndian.Uint32(b[len(b)-sumBytes:])
	if string(body[:len(addressMagic)]) != addressMagic {
		return nil, fmt.Errorf("the peer's address begins with %q, want %q", body[:len(addressMagic)], addressMagic)
	}
	if got := crc32c.Update(0, body); got != sum {
		return nil, fmt.Errorf("the checksum of the peer's address is %08x, announced %08x", got, sum)
	}
	return body[len(addressMagic):], nil
}
