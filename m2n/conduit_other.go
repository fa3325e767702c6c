//go:build !linux

package m2n

import "net"

func (n *lane) newConduit(conn net.Conn) conduit { return newStreamConduit(n, conn) }
