package shm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// SocketName is the abstract Unix socket at which an endpoint that listens at a TCP
// address meets the processes of its host.
func SocketName(addr string) *net.UnixAddr { return &net.UnixAddr{Name: "@m2n/" + addr, Net: "unix"} }

// Conn is a Unix connection that keeps the descriptors that come with the bytes read.
type Conn struct {
	*net.UnixConn
	fds  []int // the first maxFDs of them
	came int   // all of them
}

// maxFDs is how many descriptors one end passes on: those of its ring, its page of
// doorbells and the eventfd that wakes it.
const maxFDs = 3

// Read reads bytes, and keeps the descriptors that come with them.
func (c *Conn) Read(b []byte) (int, error) {
	var oob [256]byte
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob[:])
	if oobn > 0 {
		c.keep(oob[:oobn])
	}
	return n, err
}

func (c *Conn) keep(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return // FDs finds too few descriptors
	}
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			n := min(len(fds), maxFDs-len(c.fds))
			c.fds = append(c.fds, fds[:n]...)
			CloseFDs(fds[n:])
			c.came += len(fds)
		}
	}
}

// FDs returns the descriptors that have come: a ring's, a page's and an eventfd. The
// caller owns them.
func (c *Conn) FDs() (ring, page, eventfd int, err error) {
	fds := c.fds
	c.fds = nil
	if c.came != maxFDs {
		CloseFDs(fds)
		return -1, -1, -1, fmt.Errorf("%w: %d descriptors came with the greeting, want %d", wire.ErrBadFrame, c.came, maxFDs)
	}
	return fds[0], fds[1], fds[2], nil
}

// WriteWithFDs writes b, with the descriptors of a ring, a page and an eventfd.
func (c *Conn) WriteWithFDs(b []byte, ring, page, eventfd int) error {
	n, _, err := c.WriteMsgUnix(b, unix.UnixRights(ring, page, eventfd), nil)
	if err == nil && n < len(b) {
		err = fmt.Errorf("%d of %d bytes of the greeting went out", n, len(b))
	}
	return err
}

// Close closes the connection, and the descriptors that nobody has fetched.
func (c *Conn) Close() error {
	CloseFDs(c.fds)
	c.fds = nil
	return c.UnixConn.Close()
}

// CloseFDs closes descriptors.
func CloseFDs(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // nothing was written through them
	}
}

// CheckUser checks that this user runs the other end: memory is not shared with
// others.
func (c *Conn) CheckUser() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	outer := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(outer, err); err != nil {
		return fmt.Errorf("asking who the peer is: %w", err)
	}
	if int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("the peer is run by user %d, this end by %d", cred.Uid, os.Geteuid())
	}
	return nil
}

// Dial connects to the process of this host that listens at a TCP address. An error
// says why there is none that could share memory.
func Dial(ctx context.Context, addr string) (*Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("no address of %s: %w", host, err)
	}
	if !slices.ContainsFunc(ips, isLocal) {
		return nil, errors.New(host + " is not this host")
	}
	var names []string
	for _, ip := range ips {
		names = append(names, net.JoinHostPort(ip.String(), port))
	}
	// The endpoint may listen at all addresses of the host.
	names = append(names, net.JoinHostPort("::", port), net.JoinHostPort("0.0.0.0", port))
	for _, name := range names {
		c, err := net.DialUnix("unix", nil, SocketName(name))
		if err == nil {
			return &Conn{UnixConn: c}, nil
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
	}
	return nil, errors.New("nobody on this host shares memory at " + addr)
}

// isLocal reports whether an address is one of this host's, as this process sees it.
func isLocal(ip net.IPAddr) bool {
	if ip.IP.IsLoopback() {
		return true
	}
	all, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(all, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip.IP)
	})
}
