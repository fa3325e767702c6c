//go:build !linux

package m2n

import "net"

func (n *lane) newConnection(conn net.Conn) connection { return newStreamConn(n, conn) }
