//go:build !linux

package m2n

import (
	"context"
	"errors"
	"net"
	"time"
)

func hostClock() int64 { return time.Now().UnixNano() }

func (e *Endpoint) serveSHM(net.Listener) {}

func (p *pair) dialSHM(context.Context, string) error {
	return &unavailableError{"shared memory needs Linux"}
}

// shmBoard is of Linux.
type shmBoard struct{}

func newBoard() (*shmBoard, error) { return nil, errors.ErrUnsupported }

func (*shmBoard) sweep() int  { return 0 }
func (*shmBoard) sleep() bool { return false }
func (*shmBoard) wakeUp()     {}
func (*shmBoard) used() bool  { return false }
func (*shmBoard) close()      {}
