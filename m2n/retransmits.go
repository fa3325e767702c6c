package m2n

// countRetransmits adds what the kernel has sent again since the last look.
func (n *lane) countRetransmits() {
	n.link.pair.mu.Lock()
	c, opened := n.conduit.(interface{ retransmits() (uint64, bool) })
	n.link.pair.mu.Unlock()
	if !opened {
		return
	}
	if total, ok := c.retransmits(); ok {
		n.link.pair.counters.retransmits.Add(total - n.resent)
		n.resent = total
	}
}

func (s *streamConduit) retransmits() (uint64, bool) { return retransmitsOn(s.conn) }
