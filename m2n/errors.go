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
	// ErrSilent: for PeerTimeout nothing came of the peer, or a write made no progress,
	// or too little came of a message that had begun to come.
	ErrSilent = errors.New("peer is silent")
	// ErrBroken: a connection failed, or was closed without a goodbye, as where the
	// peer's process is killed.
	ErrBroken = errors.New("connection is broken")
	// ErrBadFrame: the peer sent bytes that are no frame, or a frame that breaks the
	// protocol.
	ErrBadFrame = wire.ErrBadFrame
	// ErrRefused: the peer did not want the connection, as where the two ends disagree
	// on their ids or epochs.
	ErrRefused = errors.New("connection refused by the peer")
	// ErrUnknownPeer: a post to a peer that SetPeer has not named.
	ErrUnknownPeer = errors.New("unknown peer")
	// ErrQueueFull: a post beyond Config.Queue.
	ErrQueueFull = errors.New("queue is full")
	// ErrTooLarge: a message beyond the receiver's SlotBytes or HeaderBytes.
	ErrTooLarge = errors.New("message is too large")
)

// LostError says with which peer a pair has failed, and why.
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
