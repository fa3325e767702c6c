//go:build !linux

package m2n

import "net"

// retransmitsOn is how many TCP segments the kernel has sent again; it does not
// tell.
func retransmitsOn(net.Conn) (uint64, bool) { return 0, false }
