//go:build !linux

package shm

import "errors"

// Page needs Linux.
type Page struct{}

// NewPage returns an error.
func NewPage() (*Page, error) { return nil, errors.ErrUnsupported }

// Poll finds nothing.
func (*Page) Poll() int { return 0 }

// PrepareSleep finds nothing.
func (*Page) PrepareSleep() bool { return false }

// Awake does nothing.
func (*Page) Awake() {}

// InUse is false.
func (*Page) InUse() bool { return false }

// Close does nothing.
func (*Page) Close() {}
