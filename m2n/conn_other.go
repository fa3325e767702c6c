//go:build !linux

package m2n

import "net"

// tune sets nothing: priorities and pacing are Linux's.
func (n *lane) tune() error { return nil }

func (n *lane) newConnection(conn net.Conn) connection { return newStreamConn(n, conn) }
