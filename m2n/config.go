package m2n

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// Config configures an endpoint. ID is needed; everything else has a default.
type Config struct {
	// ID names the endpoint to its peers, in 1 to 255 bytes. Epoch numbers the
	// endpoint's incarnations: peers drop and count frames of an older one.
	ID    string
	Epoch uint64
	// Network is where inproc: addresses are looked up. nil means that the endpoint has
	// no peers in its own process.
	Network *Network
	// Alloc makes receive memory of n bytes, once per connected peer: Slots slots of
	// SlotBytes each, rounded up to 64. nil means ordinary memory. Free, which may be
	// nil, gets the memory back once the pair is lost and its last message released.
	// Neither is used in process, where a receiver reads the sender's spans. Goroutines
	// of the endpoint call both, Alloc one at a time.
	Alloc func(n int) (*Region, error)
	Free  func(*Region)
	// Adopt makes a region of memory that is shared with a peer's process, to receive
	// into. The region is given to Free before the memory is unmapped. nil means that
	// the memory is used as it is or, where Alloc is set, that the endpoint shares no
	// memory: its receive memory is then a device's.
	Adopt func(mem []byte) (*Region, error)
	// SlotBytes bounds the body of one message that this endpoint receives. Default
	// 1 MiB. Slots is how many messages each peer may have in flight, or received and
	// not released, here: the credits that the peer is given. Default 8. With the
	// defaults each peer connected by TCP costs 8 MiB.
	SlotBytes int
	Slots     int
	// HeaderBytes bounds the header of a received message. Default 64 KiB.
	HeaderBytes int
	// Queue bounds the messages per peer that were posted and whose Sent has not been
	// polled. Default 4·Slots + 64.
	Queue int
	// PeerTimeout bounds how long a silent or stuck peer stays undetected. Default 2 s:
	// the pair with a stopped process is Lost between 2.0 and 2.3 s later. A peer is
	// stuck too where less than a kilobyte of a message that has begun to come arrives
	// in that time (more where the peer's PeerTimeout is shorter). With TLS bytes are
	// counted by records of up to 16 KiB.
	PeerTimeout time.Duration
	// DialTimeout bounds the time from the first post until the pair is up: retries and
	// the wait until the peer has named this endpoint with SetPeer included. Default
	// 2 s.
	DialTimeout time.Duration
	// Connections is how many TCP connections this end makes when it dials a peer. With
	// more than one, the first carries credits, keep-alives and goodbyes, so that they
	// do not wait behind bodies, and each message travels on the first of the others
	// that is idle. Default 2, at most 16.
	Connections int
	// Pace bounds what a TCP connection that carries messages sends, in bytes a second.
	// Congestion names the kernel's congestion control algorithm for such connections,
	// for example "bbr". Where many senders share a link with long queues, either of
	// them keeps the queues short. Defaults: no bound, and the system's algorithm. Both
	// need Linux.
	Pace       int
	Congestion string
	// Dial makes a connection to HOST:PORT. nil means plain TCP. Dial is for tests, and
	// for networks that are not reached by plain TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// TLS secures TCP connections: TLS 1.3, mutual. One tls.Config serves both roles, so
	// it has RootCAs and ServerName for dialling, and Certificates, ClientCAs and
	// ClientAuth for accepting. It secures the connections of Dial and Serve too. nil
	// means plain TCP, whose bodies carry checksums; with TLS they carry none. In
	// process and in shared memory it is not used.
	TLS *tls.Config
	// Fabric is a transport that the program brings along, for peers at ucx: addresses
	// that have a fabric of the same name. The endpoint drives and closes it. nil means
	// none.
	Fabric Fabric
	// ReadyTimeout bounds the wait for a message's Ready event. Default 1 min.
	ReadyTimeout time.Duration
	// SpinFor is how long Poll looks for a completion again and again before it sleeps.
	// It spins only where completions have come as soon as that of late, and where the
	// host has no more busy threads than cores. Sleeping costs a wake-up of some 5 µs,
	// spinning a core. Default 50 µs; a negative SpinFor means never to spin. While all
	// peers are in this process, where a wake-up costs less, 0 means not to spin.
	SpinFor time.Duration
}

// complete fills in the defaults and refuses what cannot work.
func (c Config) complete() (Config, error) {
	if err := checkID(c.ID); err != nil {
		return c, err
	}
	setDefault(&c.SlotBytes, 1<<20)
	setDefault(&c.Slots, 8)
	setDefault(&c.HeaderBytes, 64<<10)
	setDefault(&c.Queue, 4*c.Slots+64)
	setDefault(&c.Connections, 2)
	setDefault(&c.PeerTimeout, 2*time.Second)
	setDefault(&c.DialTimeout, 2*time.Second)
	setDefault(&c.ReadyTimeout, time.Minute)
	return c, errors.Join(c.check(), checkFabric(c.Fabric))
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// maxID bounds an id, so that the two ids of a greeting fit into its frame, whatever
// characters JSON has to escape.
const maxID = 255

func checkID(id string) error {
	if id == "" || len(id) > maxID {
		return fmt.Errorf("m2n: Config.ID has %d bytes, want 1 to %d", len(id), maxID)
	}
	return nil
}

// maxBytes bounds SlotBytes and HeaderBytes: lengths on the wire have 32 bits.
const maxBytes = 1 << 31

// check holds numbers to their limits. A peer's greeting is checked by it too.
func (c Config) check() error {
	for _, f := range []struct {
		name     string
		v, limit int
	}{
		{"SlotBytes", c.SlotBytes, maxBytes - 1}, {"Slots", c.Slots, 1 << 16},
		{"HeaderBytes", c.HeaderBytes, maxBytes - 1}, {"Queue", c.Queue, 1 << 24}, {"Connections", c.Connections, maxLanes},
		{"PeerTimeout", int(c.PeerTimeout), int(time.Hour)}, {"DialTimeout", int(c.DialTimeout), int(time.Hour)},
		{"ReadyTimeout", int(c.ReadyTimeout), int(24 * time.Hour)},
	} {
		if f.v < 1 || f.v > f.limit {
			return fmt.Errorf("m2n: Config.%s is %d, want 1 to %d", f.name, f.v, f.limit)
		}
	}
	if c.Pace < 0 {
		return fmt.Errorf("m2n: Config.Pace is %d bytes a second, want 0 (no bound) or more", c.Pace)
	}
	return nil
}
