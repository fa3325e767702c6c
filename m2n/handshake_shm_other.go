//go:build !linux

package m2n

import (
	"context"
	"net"
)

func (e *Endpoint) serveSHM(net.Listener) {}

func (p *pair) dialSHM(context.Context, string) error {
	return &unavailableError{"shared memory needs Linux"}
}
