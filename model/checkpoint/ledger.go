package checkpoint

import (
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/tandem-moe/tandem/model"
)

// Ledger holds what is known of a model's weights: of each the digest, and who
// said it first. All who hold a weight must agree. It is safe for concurrent
// use.
type Ledger struct {
	mu    sync.Mutex
	known map[string]testimony
}

// testimony is a digest and who said it.
type testimony struct {
	digest Digest
	by     string
}

// NewLedger returns one that knows nothing.
func NewLedger() *Ledger { return &Ledger{known: map[string]testimony{}} }

// DifferError is weights that are not the same in two places.
type DifferError struct {
	// Names are the weights that differ, in the model's order.
	Names []string
	// Known is the first one's digest that By had given, Given the other's.
	Known, Given Digest
	By, Other    string
}

func (e *DifferError) Error() string {
	more := ""
	if n := len(e.Names) - 1; n > 0 {
		more = fmt.Sprintf(", and %d others differ: %s", n, model.Some(e.Names[1:]))
	}
	return fmt.Sprintf("tensor %s differs: its digest is %s at %s and %s at %s%s; one of the files is damaged, not downloaded whole, or of another version",
		e.Names[0], e.Known, e.By, e.Given, e.Other, more)
}

// Add takes the digests of named weights that by holds. Where one is not what is
// known, nothing is added and the error is a *DifferError.
func (l *Ledger) Add(by string, names []string, digests Digests) error {
	if len(names) != len(digests) {
		return fmt.Errorf("%s gives the digests of %d weights, and its part has %d", by, len(digests), len(names))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.compare(by, names, digests); err != nil {
		return err
	}
	for i, name := range names {
		if _, ok := l.known[name]; !ok {
			l.known[name] = testimony{digests[i], by}
		}
	}
	return nil
}

// compare holds digests against what is known.
func (l *Ledger) compare(by string, names []string, digests Digests) error {
	var e *DifferError
	for i, name := range names {
		k, ok := l.known[name]
		if !ok || k.digest == digests[i] {
			continue
		}
		if e == nil {
			e = &DifferError{Known: k.digest, Given: digests[i], By: k.by, Other: by}
		}
		e.Names = append(e.Names, name)
	}
	if e == nil {
		return nil
	}
	return e
}

// Sum identifies named weights, as [Digests.Sum], where all are known.
func (l *Ledger) Sum(names []string) (sum [sha256.Size]byte, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	digests := make(Digests, len(names))
	for i, name := range names {
		k, ok := l.known[name]
		if !ok {
			return sum, false
		}
		digests[i] = k.digest
	}
	return digests.Sum(names), true
}
