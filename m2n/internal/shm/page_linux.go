package shm

import (
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// Page is an endpoint's own page of doorbells.
type Page struct {
	segment *Segment
	bits    doorbellPage

	mu       sync.Mutex
	handlers [MaxDoorbells]Handler
	reserved [MaxDoorbells]bool
	words    int // that hold reserved doorbells, or did
}

// pageBytes is the size of a page's segment.
var pageBytes = roundUp(doorbellBytes, PageBytes)

// NewPage makes a page whose doorbells are all free.
func NewPage() (*Page, error) {
	s, err := NewSegment(pageBytes)
	if err != nil {
		return nil, err
	}
	return &Page{segment: s, bits: s.Mem}, nil
}

// FD is the segment's descriptor, for passing it to a peer. The page keeps it.
func (p *Page) FD() int { return p.segment.FD }

// Close unmaps the page. Nobody may use it any more.
func (p *Page) Close() { p.segment.Close() }

// Reserve returns the index of a free doorbell.
func (p *Page) Reserve() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.reserved[:], false)
	if i < 0 {
		return 0, fmt.Errorf("%d peers share memory with this endpoint, the limit", MaxDoorbells)
	}
	p.reserved[i] = true
	p.words = max(p.words, i/64+1)
	return i, nil
}

// Handle has h called when doorbell i is signalled, and once at the next Poll for
// signals that came before.
func (p *Page) Handle(i int, h Handler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handlers[i] = h
	p.bits.set(i)
}

// Release makes doorbell i free.
func (p *Page) Release(i int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handlers[i], p.reserved[i] = nil, false
}

func (p *Page) handler(i int) Handler {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.handlers[i]
}

func (p *Page) usedWords() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.words
}

// InUse reports whether a doorbell is or was reserved: else there is nothing to poll.
func (p *Page) InUse() bool { return p.usedWords() > 0 }

// Poll calls the handlers of the doorbells that were signalled, and returns how many.
func (p *Page) Poll() int {
	n := 0
	for w := range p.usedWords() {
		if p.bits.word(w).Load() == 0 {
			continue
		}
		for set, i := p.bits.word(w).Swap(0), 0; set != 0; set, i = set>>1, i+1 {
			if set&1 == 0 {
				continue
			}
			if h := p.handler(64*w + i); h != nil {
				h.Readable()
				n++
			}
		}
	}
	return n
}

// PrepareSleep has whoever signals from now on wake the owner. It reports whether a
// doorbell was signalled before: then the owner must not sleep.
func (p *Page) PrepareSleep() (signalled bool) {
	p.bits.asleep().Store(1)
	for w := range p.usedWords() {
		if p.bits.word(w).Load() != 0 {
			return true
		}
	}
	return false
}

// Awake says that the owner does not sleep any more.
func (p *Page) Awake() { p.bits.asleep().Store(0) }

// PeerPage is a peer's page of doorbells.
type PeerPage struct {
	segment *Segment
}

// MapPage maps the page of a peer, and owns the descriptor from here on.
func MapPage(fd int) (*PeerPage, error) {
	s, err := MapSegment(fd, pageBytes)
	if err != nil {
		return nil, err
	}
	return &PeerPage{s}, nil
}

// CheckDoorbell holds an index that a peer names to the size of its page.
func CheckDoorbell(i int) error {
	if i < 0 || i >= MaxDoorbells {
		return fmt.Errorf("%w: ring %d of %d", wire.ErrBadFrame, i, MaxDoorbells)
	}
	return nil
}

// Doorbell is the peer's doorbell i. Its owner is woken through an eventfd, which the
// caller closes after the last Signal; Signal never blocks on it if it is
// non-blocking.
func (p *PeerPage) Doorbell(i, eventfd int) Doorbell {
	return Doorbell{page: p.segment.Mem, index: i, wake: func() {
		_, _ = unix.Write(eventfd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // an error means that the peer is gone
	}}
}

// Close unmaps the page. Nobody may use its doorbells any more.
func (p *PeerPage) Close() { p.segment.Close() }
