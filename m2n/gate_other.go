//go:build !linux

package m2n

import (
	"errors"
	"time"
)

// gate is of Linux. Elsewhere each connection has goroutines.
type gate struct{}

func newGate() (*gate, error) { return nil, errors.ErrUnsupported }

func (*gate) wait(time.Duration) int { return 0 }
func (*gate) ring()                  {}
func (*gate) close()                 {}

type pump struct{}

func newPump() (*pump, error) { return nil, errors.ErrUnsupported }

func (*pump) run()   {}
func (*pump) close() {}
