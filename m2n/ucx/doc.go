// Package ucx is a fabric for m2n over UCX, the library that drives InfiniBand,
// RoCE and shared memory: a context, a worker, and one UCP endpoint per
// connection, whose active messages go from the sender's spans to the receiver's
// slot. It owns all C code of m2n; it may not know pairs, credits or epochs.
//
// The package is built with the tag ucx and cgo, against libucx-dev (1.13 or later):
//
//	apt-get install libucx-dev
//	CGO_ENABLED=1 go build -tags ucx ./...
//
// Without the tag it needs no C, and Open returns an error that says so.
//
// UCX has neither encryption nor authentication, and trusts the bytes that arrive: use it
// in a network that only the cluster's nodes can reach. docs/ucx.md has the settings for
// hardware, and the list of what was tested.
package ucx

import "errors"

// ErrNotBuilt is what Open returns in a program without UCX.
var ErrNotBuilt = errors.New("ucx: this program was built without the tag ucx: install libucx-dev and build with CGO_ENABLED=1 go build -tags ucx")

// Config configures a fabric.
type Config struct {
	// Options are UCX's settings, without the prefix UCX_: TLS, NET_DEVICES,
	// RNDV_THRESH. They override the environment (UCX_TLS and so on), which overrides
	// UCX's defaults.
	Options map[string]string
}
