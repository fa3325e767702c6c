package m2n

// transport carries a wireLink's messages where the lanes do not: shmTransport through
// memory that both ends share, fabricTransport over a program's fabric. The link keeps
// a lane for credits, keep-alives and the goodbye.
type transport interface {
	// flush sends what pair.dequeue gives, as far as that does not block.
	flush()
	// releaseSlot takes a slot back from the consumer, and sees to it that the peer
	// learns of the credit.
	releaseSlot(slot int)
	// endAfter is called when the peer has said goodbye, for that cause, after its
	// message of number last. It delivers what has arrived. Where it returns false that
	// message is still under way: then the transport fails the pair, once the message
	// is here or is late.
	endAfter(last uint64, cause error) bool
	// close is called when the pair is down and all lanes are closed.
	close()
}
