package m2n

import (
	"errors"
	"fmt"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// Causes of a loss and reasons for a refusal, for errors.Is.
var (
	// ErrClosed: an endpoint was closed, this one or the peer's.
	ErrClosed = errors.New("endpoint closed")
	// ErrReplaced: SetPeer named the peer with a higher epoch.
	ErrReplaced = errors.New("replaced by a higher epoch")
	// ErrRemoved: RemovePeer took the peer away.
	ErrRemoved = errors.New("peer removed")
	// ErrSilent: nothing was heard of the peer for PeerTimeout, or a write was stuck,
	// or a message that had begun to come did not get on.
	ErrSilent = errors.New("peer is silent")
	// ErrBroken: a connection broke off, or was closed without a goodbye: the peer's
	// process was killed, for example.
	ErrBroken = errors.New("connection is broken")
	// ErrBadFrame: what the peer sent is no frame, or breaks the protocol.
	ErrBadFrame = wire.ErrBadFrame
	// ErrRefused: the two ends disagree on who they are, or never heard of each
	// other.
	ErrRefused = errors.New("connection refused by the peer")
	// ErrUnknownPeer: a post to a peer that SetPeer has not named.
	ErrUnknownPeer = errors.New("unknown peer")
	// ErrQueueFull: a post beyond Config.Queue.
	ErrQueueFull = errors.New("queue is full")
	// ErrTooLarge: a message beyond the receiver's SlotBytes or HeaderBytes.
	ErrTooLarge = errors.New("message is too large")
)

// LostError says which pair failed, and why.
type LostError struct {
	Peer  string
	Epoch uint64 // the peer's
	Cause error
}

// Error names the peer and the cause.
func (e *LostError) Error() string {
	return fmt.Sprintf("peer %q (epoch %d) is lost: %v", e.Peer, e.Epoch, e.Cause)
}

// Unwrap returns the cause.
func (e *LostError) Unwrap() error { return e.Cause }
