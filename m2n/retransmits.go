package m2n

// countRetransmits adds what the kernel has sent again since the last look.
func (n *lane) countRetransmits() {
	n.link.pair.mu.Lock()
	c, opened := n.conn.(interface{ retransmits() (uint64, bool) })
	n.link.pair.mu.Unlock()
	if !opened {
		return
	}
	if total, ok := c.retransmits(); ok {
		n.link.pair.counters.retransmits.Add(total - n.retransmits)
		n.retransmits = total
	}
}

func (s *streamConn) retransmits() (uint64, bool) { return retransmitsOn(s.conn) }
