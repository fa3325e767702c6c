//go:build !ucx || !cgo

package ucx

import "github.com/tandem-moe/tandem/m2n"

// Available is nil where this program has UCX, else ErrNotBuilt.
func Available() error { return ErrNotBuilt }

// Open returns ErrNotBuilt.
func Open(Config) (m2n.Fabric, error) { return nil, ErrNotBuilt }
