package deploy

import (
	"fmt"
	"net"
)

// peerSocket is where peers reach a node. It is bound once and stays for as long as
// the node: between two memberships nobody else can take the port, and who dials
// waits in the system's queue.
type peerSocket struct{ *net.TCPListener }

func listenForPeers(address string) (*peerSocket, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for peers (--listen): %w", err)
	}
	return &peerSocket{l.(*net.TCPListener)}, nil
}

// lend is the socket for one membership, whose endpoint closes what it gets.
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
