// Package poll is m2n's way to the kernel's sockets: a [Poller] that waits for many
// descriptors at once, a [Socket] that never blocks, and the options of sockets. Only
// Linux has pollers and sockets of this package; elsewhere m2n uses net.Conn.
//
// The package moves bytes and knows no frame, pair or completion. Whoever drives the
// poller is the one goroutine that calls Wait and Serve; everything else may be called
// from any goroutine.
package poll

import "errors"

// ErrClosed says that a descriptor is not, or no longer, watched.
var ErrClosed = errors.New("poller is closed")

// Source is something that a [Poller] watches.
type Source interface {
	// Readable is called by the driver when there may be something to read.
	Readable()
}

// WriteSource is a source that may wait until it can write.
type WriteSource interface {
	Source
	// Writable is called by the driver, once after each WantWrite.
	Writable()
}
