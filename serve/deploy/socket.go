package deploy

import (
	"fmt"
	"net"
)

// peerSocket is the socket at which peers reach a node. It stays bound for as long as
// the node runs: between two memberships no other process can take the port, and a
// peer's connection waits in the system's queue.
type peerSocket struct{ *net.TCPListener }

func listenForPeers(address string) (*peerSocket, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for peers (--listen): %w", err)
	}
	return &peerSocket{l.(*net.TCPListener)}, nil
}

// lend returns a duplicate of the socket for one membership, whose endpoint closes
// it.
func (s *peerSocket) lend() (net.Listener, error) {
	f, err := s.File()
	if err != nil {
		return nil, fmt.Errorf("listening for peers at %s: %w", s.Addr(), err)
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listening for peers at %s: %w", s.Addr(), err)
	}
	return l, nil
}
