package m2n

// carrier takes a wireLink's messages where its lanes do not: memory that both
// ends share, or a fabric.
type transport interface {
	// flush sends what pair.next gives, as far as that does not block.
	flush()
	// giveBack takes a slot from the receiver, and tells the sender when it may be
	// short of credits.
	releaseSlot(slot int)
	// settle takes what has arrived: the peer has said goodbye, for that cause, after
	// its message of number last. Where that one is still under way settle is false,
	// and the carrier fails the pair when it is here, or late.
	endAfter(last uint64, cause error) bool
	// close is called when the pair is down and no lane is left.
	close()
}
