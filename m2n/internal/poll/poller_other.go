//go:build !linux

package poll

import "errors"

// Poller needs Linux.
type Poller struct{}

// Event is what Wait returns, for Serve.
type Event struct{}

// New returns an error.
func New() (*Poller, error) { return nil, errors.ErrUnsupported }

// Add returns an error.
func (*Poller) Add(int, Source) error { return errors.ErrUnsupported }

// Wait returns none.
func (*Poller) Wait(bool) []Event { return nil }

// Serve serves none.
func (*Poller) Serve(events []Event) int { return len(events) }

// Wake does nothing.
func (*Poller) Wake() {}

// Close does nothing.
func (*Poller) Close() {}
