//go:build ucx && cgo

package ucx

// #cgo CFLAGS: -O2 -Wall
// #cgo LDFLAGS: -lucp -lucs
// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/tandem-moe/tandem/m2n"
)

// Available is nil where this program has UCX, else ErrNotBuilt.
func Available() error { return nil }

// Fabric is a UCP context and its one worker.
type Fabric struct {
	address []byte
	fd      int
	// asDevice has messages received as if into a device's memory, for tests.
	asDevice bool

	// mu is held during each call of the shim, which is not safe for concurrent use.
	mu      sync.Mutex
	shim    *C.struct_shim // nil once closed
	conns   map[uint32]*conn
	memory  memory
	sends   sends
	refills []C.uint32_t // pairs of connection and slot, for the next progress
	pieces  []C.struct_shim_piece

	// The events of the shim's last progress, in C's memory. Those from next on have not
	// been reported yet.
	events       []C.struct_shim_event
	next, filled int
}

// defaults are settings that a mesh of Go programs needs:
//
//   - no caches of registered memory: they learn from hooks in libc that memory is
//     unmapped, and Go unmaps memory without libc;
//   - no shared memory: m2n has its own, and in UCX's a peer that dies in the middle of a
//     message blocks the others (UCX also notices the end of such a peer only with a
//     setting: MM_… in UCX 1.13, the transport's name in later versions).
var defaults = map[string]string{
	"IB_REG_METHODS": "direct", "RCACHE_ENABLE": "n",
	"TLS": "^sm", "MM_ERROR_HANDLING": "y", "POSIX_ERROR_HANDLING": "y", "SYSV_ERROR_HANDLING": "y",
}

// Open makes a fabric. Errors name the setting, or the part of UCX, that failed. A setting
// that no transport in use has is an error too.
func Open(cfg Config) (m2n.Fabric, error) {
	f := &Fabric{
		conns:  make(map[uint32]*conn),
		memory: make(memory),
	}
	useless, err := f.open(settings(cfg.Options, os.LookupEnv))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(refuse(cfg.Options, useless), f.query()); err != nil {
		C.shim_destroy(f.shim)
		return nil, err
	}
	return f, nil
}

// settings adds the defaults that neither the caller nor the environment has set.
func settings(options map[string]string, env func(string) (string, bool)) map[string]string {
	all := make(map[string]string, len(options)+len(defaults))
	for name, value := range defaults {
		if _, set := env("UCX_" + name); !set {
			all[name] = value
		}
	}
	maps.Copy(all, options)
	return all
}

// refuse returns an error where UCX has no use for one of the caller's options. UCX lists
// those as "…: NAME=value,NAME=value".
func refuse(options map[string]string, useless string) error {
	_, list, _ := strings.Cut(useless, ": ")
	for setting := range strings.SplitSeq(list, ",") {
		name, _, _ := strings.Cut(setting, "=")
		if value, ours := options[name]; ours {
			return fmt.Errorf("ucx: opening: no transport in use has the setting %s (=%s): set UCX_%[1]s in the environment, if it has one", name, value)
		}
	}
	return nil
}

// open returns UCX's list of the settings for which it has no use.
func (f *Fabric) open(options map[string]string) (useless string, err error) {
	var list []*C.char
	defer func() {
		for _, s := range list {
			C.free(unsafe.Pointer(s))
		}
	}()
	for _, name := range slices.Sorted(maps.Keys(options)) {
		list = append(list, C.CString(name), C.CString(options[name]))
	}
	what, text := (*C.char)(nil), make([]byte, 512)
	status := C.shim_open(unsafe.SliceData(list), C.int(len(options)), &f.shim, &what, (*C.char)(unsafe.Pointer(&text[0])), C.size_t(len(text)))
	if status != 0 {
		return "", fmt.Errorf("ucx: opening: %s: %w", C.GoString(what), statusError(status))
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	return string(text), nil
}

// query asks UCX for the address and the descriptor, which do not change.
func (f *Fabric) query() error {
	var address unsafe.Pointer
	var bytes C.size_t
	if status := C.shim_address(f.shim, &address, &bytes); status != 0 {
		return fmt.Errorf("ucx: the worker's address: %w", statusError(status))
	}
	f.address = encodeAddress(unsafe.Slice((*byte)(address), bytes))
	C.shim_free_address(f.shim, address)
	var fd C.int
	if status := C.shim_event_fd(f.shim, &fd); status != 0 {
		return fmt.Errorf("ucx: the worker's event descriptor: %w", statusError(status))
	}
	f.fd = int(fd)
	f.events = unsafe.Slice(C.shim_events(f.shim), C.SHIM_EVENTS)
	return nil
}

// Name is "ucx".
func (f *Fabric) Name() string { return "ucx" }

// Address is the address of the worker.
func (f *Fabric) Address() []byte { return f.address }

// EventFD is the descriptor of the worker.
func (f *Fabric) EventFD() int { return f.fd }

// Arm has the descriptor become readable at the next event. It returns false where there
// is work now.
func (f *Fabric) Arm() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shim == nil {
		return false, errClosed
	}
	if f.next < f.filled {
		return false, nil
	}
	var armed C.int
	if status := C.shim_arm(f.shim, &armed); status != 0 {
		return false, fmt.Errorf("ucx: arming: %w", statusError(status))
	}
	return armed != 0, nil
}

// Progress has UCX work, and reports events.
func (f *Fabric) Progress(events []m2n.FabricEvent) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == f.filled {
		f.progress()
	}
	n := min(len(events), f.filled-f.next)
	for i := range n {
		events[i] = f.convert(&f.events[f.next])
		f.next++
	}
	return n
}

func (f *Fabric) progress() {
	f.next, f.filled = 0, 0
	if f.shim == nil {
		return
	}
	f.filled = int(C.shim_progress(f.shim, unsafe.SliceData(f.refills), C.int(len(f.refills)/2)))
	f.refills = f.refills[:0]
}

// convert turns an event of the shim into m2n's, and releases the memory of the message
// or connection that the event ends.
func (f *Fabric) convert(e *C.struct_shim_event) m2n.FabricEvent {
	c := f.conns[uint32(e.conn)]
	out := m2n.FabricEvent{Kind: kinds[e.kind], Owner: c.owner}
	switch e.kind {
	case C.SHIM_SENT:
		out.Token = f.end(uint64(e.token))
		if e.status != 0 {
			out.Err = fmt.Errorf("ucx: sending: %w", statusError(e.status))
		}
	case C.SHIM_RECEIVED:
		out.Header = slices.Clone(unsafe.Slice((*byte)(e.header), e.header_bytes))
		out.Slot, out.Body = int(e.slot), int(e.body)
		c.full[e.slot] = true
	case C.SHIM_FAILED:
		out.Err = c.failure(e)
	case C.SHIM_CLOSED:
		f.forget(c)
	}
	return out
}

var kinds = [...]m2n.FabricEventKind{
	C.SHIM_SENT: m2n.FabricSent, C.SHIM_RECEIVED: m2n.FabricReceived,
	C.SHIM_FAILED: m2n.FabricFailed, C.SHIM_CLOSED: m2n.FabricClosed,
}

// strays counts messages whose connection does not exist.
func (f *Fabric) strays() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int(C.shim_strays(f.shim))
}

// Close closes the connections, and ends UCX when they are closed or ctx ends. In either
// case nothing touches memory afterwards.
func (f *Fabric) Close(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	left := f.closeConns()
	for left > 0 && ctx.Err() == nil {
		left = f.drain()
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	f.destroy()
	if left > 0 {
		return fmt.Errorf("ucx: closing: %d connections were cut: %w", left, ctx.Err())
	}
	return nil
}

func (f *Fabric) closeConns() (left int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.close()
	}
	return len(f.conns)
}

// drain discards events.
func (f *Fabric) drain() (left int) {
	var events [C.SHIM_EVENTS]m2n.FabricEvent
	for f.Progress(events[:]) > 0 {
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

func (f *Fabric) destroy() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shim == nil {
		return
	}
	C.shim_stop(f.shim)
	f.endAll()
	f.memory.releaseAll(f.shim)
	C.shim_destroy(f.shim)
	f.shim, f.events = nil, nil
	clear(f.conns)
	f.next, f.filled = 0, 0
}
