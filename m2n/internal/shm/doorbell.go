package shm

import (
	"sync/atomic"
	"unsafe"
)

// MaxDoorbells bounds the doorbells of a page, and with them the peers that share
// memory with an endpoint.
const MaxDoorbells = 4096

// doorbellPage is the memory by which an endpoint's peers tell it that their rings have
// something: the flag asleep, and from byte 64 on one bit for each doorbell. Its owner
// and all its peers have it mapped.
type doorbellPage []byte

const doorbellBytes = 64 + MaxDoorbells/8

// asleep is 1 while the owner waits in its poller, or is about to. Who sets a doorbell
// then has to wake the owner.
func (p doorbellPage) asleep() *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&p[0])) }

// word is the i-th group of 64 doorbells.
func (p doorbellPage) word(i int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&p[64+8*i]))
}

func (p doorbellPage) set(i int) { p.word(i / 64).Or(1 << (i % 64)) }

// Doorbell is one bit of another process's page.
type Doorbell struct {
	page  doorbellPage
	index int
	wake  func() // ends the owner's sleep
}

// Signal sets the bit, and wakes the owner of the page where it sleeps. Of several
// processes that signal at once, one wakes it.
func (d Doorbell) Signal() {
	d.page.set(d.index)
	if asleep := d.page.asleep(); asleep.Load() != 0 && asleep.Swap(0) != 0 {
		d.wake()
	}
}

// Handler is called when a doorbell is signalled.
type Handler interface{ Readable() }
