//go:build !linux

package m2n

import "errors"

// gate is of Linux. Elsewhere each connection has goroutines.
type gate struct{}

func newGate() (*gate, error) { return nil, errors.ErrUnsupported }

func (*gate) add(int, source) error       { return errors.ErrUnsupported }
func (*gate) wait(bool) []struct{}        { return nil }
func (*gate) serve(events []struct{}) int { return len(events) }
func (*gate) ring()                       {}
func (*gate) close()                      {}
