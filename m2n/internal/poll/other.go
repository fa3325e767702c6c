//go:build !linux

package poll

import "net"

// Retransmits does not tell.
func Retransmits(net.Conn) (uint64, bool) { return 0, false }

// Prioritize does nothing.
func Prioritize(net.Conn) {}

// SetCongestion does nothing.
func SetCongestion(net.Conn, string) error { return nil }

// SetPace does nothing.
func SetPace(net.Conn, int) error { return nil }
