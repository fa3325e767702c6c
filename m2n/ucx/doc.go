// Package ucx is a fabric for m2n over UCX, the library that drives InfiniBand,
// RoCE and shared memory: a context, a worker, and one UCP endpoint per
// connection, whose active messages go from the sender's spans to the receiver's
// slot. It owns everything of C; it may not know pairs, credits or epochs.
//
// It is built with the tag ucx and cgo, against libucx-dev (1.13 or later).
// Without the tag, Open says so, and nothing of C is needed:
//
//	apt-get install libucx-dev
//	CGO_ENABLED=1 go build -tags ucx ./...
//
// UCX has neither encryption nor authentication, and trusts what arrives: use it
// in a network that only the cluster's nodes can reach. docs/ucx.md has the
// settings for hardware, and what was tested.
package ucx

import "errors"

// ErrNotBuilt is what Open returns in a program without UCX.
var ErrNotBuilt = errors.New("ucx: this program was built without the tag ucx: install libucx-dev and build with CGO_ENABLED=1 go build -tags ucx")

// Config is what a fabric can be told.
type Config struct {
	// Options are UCX's settings, without the prefix UCX_: TLS, NET_DEVICES,
	// RNDV_THRESH. They go before those of the environment (UCX_TLS and so on),
	// and those before UCX's defaults.
	Options map[string]string
}
