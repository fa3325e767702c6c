//go:build ucx && cgo

package ucx

// #include "shim.h"
import "C"

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/tandem-moe/tandem/m2n"
)

var errClosed = errors.New("ucx: closed")

// conn is one end of a connection: a UCP endpoint for sending, and slots for receiving.
// The fabric's lock guards all fields that change.
type conn struct {
	fabric *Fabric
	owner  any
	key    uint64
	index  C.uint32_t
	in     m2n.FabricReceiver
	full   []bool // by slot: it holds a message that Progress has reported

	connected, closing, gone bool
}

// Open makes a connection that can receive. The receiver's memory is registered until the
// connection is closed.
func (f *Fabric) Open(r m2n.FabricReceiver) (m2n.FabricConn, error) {
	if err := checkReceiver(r); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shim == nil {
		return nil, errClosed
	}
	reg, err := f.memory.acquire(f.shim, r.Memory)
	if err != nil {
		return nil, err
	}
	c := &conn{fabric: f, owner: r.Owner, in: r, full: make([]bool, r.Slots)}
	if err := c.open(reg); err != nil {
		f.memory.release(f.shim, r.Memory)
		return nil, err
	}
	f.conns[uint32(c.index)] = c
	return c, nil
}

// maxSlots bounds the slots of one connection.
const maxSlots = 1 << 16

func checkReceiver(r m2n.FabricReceiver) error {
	switch {
	case r.Memory == nil:
		return errors.New("ucx: a connection has no memory to receive into")
	case r.Slots < 1 || r.Slots > maxSlots:
		return fmt.Errorf("ucx: a connection of %d slots, want 1 to %d", r.Slots, maxSlots)
	case r.SlotBytes < 0 || r.SlotBytes > r.Stride || r.Stride > len(r.Memory.Bytes)/r.Slots:
		return fmt.Errorf("ucx: %d slots of %d bytes, %d apart, do not fit into %d bytes", r.Slots, r.SlotBytes, r.Stride, len(r.Memory.Bytes))
	case r.HeaderBytes < 0:
		return fmt.Errorf("ucx: a header of at most %d bytes", r.HeaderBytes)
	}
	return nil
}

func (c *conn) open(reg *registration) error {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		return fmt.Errorf("ucx: a key: %w", err)
	}
	key := C.uint64_t(binary.NativeEndian.Uint64(random[:]))
	r := C.struct_shim_receiver{
		memory: (*C.char)(base(c.in.Memory)), registration: reg.handle, slots: C.uint32_t(c.in.Slots),
		stride: C.size_t(c.in.Stride), slot_bytes: C.size_t(c.in.SlotBytes), header_bytes: C.size_t(c.in.HeaderBytes),
	}
	if reg.handle != nil {
		if status := C.shim_is_device(reg.handle, &r.device); status != 0 {
			return fmt.Errorf("ucx: the type of the memory to receive into: %w", statusError(status))
		}
	}
	if c.fabric.asDevice {
		r.device = 1
	}
	if status := C.shim_conn_open(c.fabric.shim, &key, &r, &c.index); status != 0 {
		return fmt.Errorf("ucx: a connection: %w", statusError(status))
	}
	c.key = uint64(key)
	return nil
}

// Key is 48 random bits, and the index of the connection in this fabric.
func (c *conn) Key() uint64 { return c.key }

// Connect makes the UCP endpoint. UCX connects the endpoint with the first Send.
func (c *conn) Connect(address []byte, key uint64) error {
	worker, err := decodeAddress(address)
	if err != nil {
		return fmt.Errorf("ucx: connecting: %w", err)
	}
	f := c.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case c.closing || f.shim == nil:
		return errClosed
	case c.connected:
		return errors.New("ucx: connecting: it is connected")
	}
	if status := C.shim_conn_connect(f.shim, c.index, unsafe.Pointer(&worker[0]), C.uint64_t(key)); status != 0 {
		return fmt.Errorf("ucx: connecting: %w", statusError(status))
	}
	c.connected = true
	return nil
}

// Send hands a message to UCX.
func (c *conn) Send(token uint64, header []byte, body []m2n.Span) error {
	f := c.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case c.closing || f.shim == nil:
		return errClosed
	case !c.connected:
		return errors.New("ucx: sending: not connected yet")
	}
	if len(header) > maxHeader {
		return fmt.Errorf("ucx: sending: %w: a header of %d bytes", m2n.ErrTooLarge, len(header))
	}
	id, s := f.begin(token)
	if err := c.send(id, s, header, body); err != nil {
		f.end(id)
		return fmt.Errorf("ucx: sending: %w", err)
	}
	return nil
}

// maxHeader bounds a header: its length on the wire has 32 bits.
const maxHeader = 1<<31 - 1

func (c *conn) send(id uint64, s *sending, header []byte, body []m2n.Span) error {
	f := c.fabric
	bytes, reg, err := f.gather(s, body)
	if err != nil {
		return err
	}
	status := C.shim_conn_send(f.shim, c.index, C.uint64_t(id), unsafe.Pointer(unsafe.SliceData(header)), C.size_t(len(header)),
		unsafe.SliceData(f.pieces), C.size_t(len(f.pieces)), C.size_t(bytes), reg.handle)
	if status != 0 {
		return statusError(status)
	}
	return nil
}

// gather lists the pieces of memory of a body, neighbours joined, and pins them. It
// returns the registration of the last one.
func (f *Fabric) gather(s *sending, body []m2n.Span) (bytes int, reg *registration, err error) {
	f.pieces, reg = f.pieces[:0], new(registration)
	var region *m2n.Region
	var end C.uintptr_t
	for i, span := range body {
		if span.Region == nil || span.Off < 0 || span.Len < 0 || span.Off > len(span.Region.Bytes)-span.Len {
			return 0, nil, fmt.Errorf("span %d (offset %d, length %d) is outside of its region", i, span.Off, span.Len)
		}
		if span.Len == 0 {
			continue
		}
		joins := span.Region == region
		if !joins {
			region, reg = span.Region, f.hold(s, span.Region)
		}
		at := C.uintptr_t(uintptr(base(region))) + C.uintptr_t(span.Off)
		bytes += span.Len
		if last := len(f.pieces) - 1; joins && at == end {
			f.pieces[last].bytes += C.size_t(span.Len)
		} else {
			f.pieces = append(f.pieces, C.struct_shim_piece{at: at, bytes: C.size_t(span.Len)})
		}
		end = at + C.uintptr_t(span.Len)
	}
	return bytes, reg, nil
}

// Refill makes a slot empty with the next Progress, before that looks at any message. It
// panics where the slot is empty already.
func (c *conn) Refill(slot int) {
	f := c.fabric
	f.mu.Lock()
	defer f.mu.Unlock()
	if !c.full[slot] {
		panic(fmt.Sprintf("ucx: slot %d is refilled, and holds no message", slot))
	}
	c.full[slot] = false
	if !c.gone && f.shim != nil {
		f.refills = append(f.refills, c.index, C.uint32_t(slot))
	}
}

// Close cancels messages that are under way.
func (c *conn) Close() {
	c.fabric.mu.Lock()
	defer c.fabric.mu.Unlock()
	c.close()
}

// close does what Close does. The caller holds the fabric's lock.
func (c *conn) close() {
	if c.closing || c.fabric.shim == nil {
		return
	}
	c.closing = true
	C.shim_conn_close(c.fabric.shim, c.index)
}

// forget releases the memory of a connection that is closed.
func (f *Fabric) forget(c *conn) {
	c.gone = true
	delete(f.conns, uint32(c.index))
	f.memory.release(f.shim, c.in.Memory)
}

// failure returns why a connection does not work any more.
func (c *conn) failure(e *C.struct_shim_event) error {
	switch e.status {
	case C.SHIM_HEADER_TOO_LONG:
		return fmt.Errorf("%w: it announces %d bytes of header, the limit is %d", m2n.ErrBadFrame, e.got, e.want)
	case C.SHIM_BODY_TOO_LONG:
		return fmt.Errorf("%w: it announces %d bytes of body, the limit is %d", m2n.ErrBadFrame, e.got, e.want)
	case C.SHIM_WRONG_LENGTH:
		return fmt.Errorf("%w: it has %d bytes, announced %d", m2n.ErrBadFrame, e.got, e.want)
	case C.SHIM_NO_SLOT:
		return fmt.Errorf("%w: a message beyond the %d that there are slots for", m2n.ErrBadFrame, e.want)
	case C.SHIM_HEADER_IN_BODY:
		return fmt.Errorf("%w: a header of %d bytes, the limit before device memory is %d", m2n.ErrTooLarge, e.got, e.want)
	}
	return fmt.Errorf("ucx: the connection: %w", statusError(e.status))
}

// statusError is a ucs_status_t of UCX.
type statusError C.int32_t

func (s statusError) Error() string { return C.GoString(C.shim_text(C.int(s))) }
