//go:build !linux

package exchange

import (
	"context"
	"errors"
	"fmt"
)

// Run measures on Linux only: its processes meet on a futex.
func Run(_ context.Context, o Options) (*Report, error) {
	if err := o.fill(); err != nil {
		return nil, fmt.Errorf("bench m2n: %w", err)
	}
	return nil, fmt.Errorf("bench m2n: %w: it needs Linux", errors.ErrUnsupported)
}

// End is a process that only Run starts.
func End(context.Context, string, string, int) error {
	return fmt.Errorf("bench m2n: %w: it needs Linux", errors.ErrUnsupported)
}

// EndOf is End with the transports of another program.
func EndOf(context.Context, map[string]Plan, string, string, int) error {
	return fmt.Errorf("bench m2n: %w: it needs Linux", errors.ErrUnsupported)
}
