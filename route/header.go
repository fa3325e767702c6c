package route

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MessageKind tells what a header introduces.
type MessageKind uint8

const (
	// Dispatch carries rows to an expert node: body = rows, gate weights, pairs.
	Dispatch MessageKind = iota + 1
	// Return carries an expert node's results: body = rows, one for each pair of
	// the dispatch, or one for each of its rows, and the places of the results.
	Return
	// Status says which micro-batches an attention node has in flight from here
	// on; none is idle. No body.
	Status
)

// MaxMicroBatches bounds the micro-batches of an attention node.
const MaxMicroBatches = 64

// HeaderSize is the bytes of an encoded Header.
const HeaderSize = 44 // 8 + 8 + 8 + 4 + 4 + 8 + 2 + 2

// Header introduces a message between attention and expert nodes.
type Header struct {
	Kind MessageKind
	// Wire is how rows travel between the two: both must mean the same.
	Wire       Wire
	MicroBatch int
	Layer      int
	// Step is the attention node's, rising with each step of any micro-batch.
	Step uint64
	// Placement is the version by which the rows of the step are split.
	Placement uint64
	Rows      int
	Pairs     int
	// InFlight has bit i set where the attention node's micro-batch i is in
	// flight.
	InFlight uint64
	// ReturnTo says to whom the results go: 0 to the sender, n to rank n−1. Serving
	// returns to the sender alone; in training the next layer's attention ranks follow.
	ReturnTo int
	// Residual: with a row's best expert travels its residual stream, to which the
	// results are added where they go. Serving keeps it.
	Residual bool
}

// residualFlag is Residual in a header's flags.
const residualFlag = 1

// limits of fields that a peer sends: larger values are not plausible.
const (
	maxMicroBatch = MaxMicroBatches - 1
	maxLayer      = MaxLayers
	maxRows       = 1 << 24
)

// Append encodes h at the end of b.
func (h Header) Append(b []byte) []byte {
	b = append(b, byte(h.Kind), h.Wire.code())
	b = binary.LittleEndian.AppendUint16(b, uint16(h.MicroBatch))
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Layer))
	b = binary.LittleEndian.AppendUint64(b, h.Step)
	b = binary.LittleEndian.AppendUint64(b, h.Placement)
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Rows))
	b = binary.LittleEndian.AppendUint32(b, uint32(h.Pairs))
	b = binary.LittleEndian.AppendUint64(b, h.InFlight)
	b = binary.LittleEndian.AppendUint16(b, uint16(h.ReturnTo))
	var flags uint16
	if h.Residual {
		flags |= residualFlag
	}
	return binary.LittleEndian.AppendUint16(b, flags)
}

// ParseHeader decodes what Append wrote.
func ParseHeader(b []byte) (Header, error) {
	if len(b) != HeaderSize {
		return Header{}, fmt.Errorf("message header: %d bytes, want %d", len(b), HeaderSize)
	}
	wire, err := wireOf(b[1])
	if err != nil {
		return Header{}, fmt.Errorf("message header: %w", err)
	}
	h := Header{
		Wire:       wire,
		Kind:       MessageKind(b[0]),
		MicroBatch: int(binary.LittleEndian.Uint16(b[2:])),
		Layer:      int(binary.LittleEndian.Uint32(b[4:])),
		Step:       binary.LittleEndian.Uint64(b[8:]),
		Placement:  binary.LittleEndian.Uint64(b[16:]),
		Rows:       int(binary.LittleEndian.Uint32(b[24:])),
		Pairs:      int(binary.LittleEndian.Uint32(b[28:])),
		InFlight:   binary.LittleEndian.Uint64(b[32:]),
		ReturnTo:   int(binary.LittleEndian.Uint16(b[40:])),
	}
	flags := binary.LittleEndian.Uint16(b[42:])
	if flags&^residualFlag != 0 {
		return Header{}, fmt.Errorf("message header: flags %#x, of which %#x are unknown", flags, flags&^residualFlag)
	}
	h.Residual = flags&residualFlag != 0
	return h, h.check()
}

// ToSender refuses a header that asks for what only training does: results that go to
// somebody else than the sender, and a residual stream that travels with them.
func (h Header) ToSender() error {
	if h.ReturnTo != 0 {
		return fmt.Errorf("return address %d: this node returns results to their sender alone", h.ReturnTo)
	}
	if h.Residual {
		return errors.New("the residual stream travels with the rows: this node leaves it with their sender")
	}
	return nil
}

func (h Header) check() error {
	if h.Kind < Dispatch || h.Kind > Status {
		return fmt.Errorf("message header: kind %d is unknown", h.Kind)
	}
	for _, f := range []struct {
		name       string
		value, max int
	}{
		{"micro-batch", h.MicroBatch, maxMicroBatch},
		{"layer", h.Layer, maxLayer},
		{"rows", h.Rows, maxRows},
		{"pairs", h.Pairs, maxRows},
	} {
		if f.value > f.max {
			return fmt.Errorf("message header: %s %d, the limit is %d", f.name, f.value, f.max)
		}
	}
	return nil
}

// pairSize is the bytes of an encoded pair: row, expert and choice.
const pairSize = 4 + 2 + 4

// MaxExperts bounds the experts of a layer: pairs have two bytes for one.
const MaxExperts = 1 << 16

// PairsSize is the bytes of n encoded pairs.
func PairsSize(n int) int { return n * pairSize }

// PutPairs encodes a packet's pairs into b, which has PairsSize bytes.
func PutPairs(b []byte, p Packet) {
	for i := range p.Row {
		to := b[pairSize*i:][:pairSize]
		binary.LittleEndian.PutUint32(to, uint32(p.Row[i]))
		binary.LittleEndian.PutUint16(to[4:], uint16(p.Expert[i]))
		binary.LittleEndian.PutUint32(to[6:], uint32(p.Choice[i]))
	}
}

// ReadPairs decodes n pairs into p, reusing its memory.
func ReadPairs(p *Pairs, b []byte, rows, n int) error {
	if len(b) != PairsSize(n) {
		return fmt.Errorf("pairs of a message: %d bytes, want %d for %d pairs", len(b), PairsSize(n), n)
	}
	p.Rows, p.Row, p.Expert, p.Place = rows, grow(p.Row, n), grow(p.Expert, n), grow(p.Place, n)
	for i := range n {
		from := b[pairSize*i:][:pairSize]
		p.Row[i] = int32(binary.LittleEndian.Uint32(from))
		p.Expert[i] = int32(binary.LittleEndian.Uint16(from[4:]))
		p.Place[i] = int32(binary.LittleEndian.Uint32(from[6:]))
	}
	return nil
}
