package m2n

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// Config is what an endpoint needs to know.
type Config struct {
	// ID names the endpoint to its peers; Epoch is its incarnation: frames of an
	// older epoch of a peer are dropped and counted.
	ID    string
	Epoch uint64
	// Network is where inproc: addresses are looked up; nil means that the
	// endpoint has no peers in its own process.
	Network *Network
	// Alloc makes receive memory of n bytes, once per connected peer (Slots slots
	// of SlotBytes each, rounded up to 64); nil means ordinary memory. Free gets
	// it back once the pair is lost and its last message released; it may be nil.
	// Neither is used in process, where a receiver reads the sender's spans. Both
	// are called from goroutines of the endpoint, Alloc by one at a time.
	Alloc func(n int) (*Region, error)
	Free  func(*Region)
	// Adopt makes a region of memory that is shared with a peer's process, to
	// receive into; it is given to Free before it goes. nil means that it is used
	// as it is; where Alloc is set it means that there is no shared memory.
	Adopt func(mem []byte) (*Region, error)
	// SlotBytes bounds the body of one message that this endpoint receives
	// (default 1 MiB); Slots is the credit that it gives each peer: the messages
	// in flight, received and not yet released (default 8). With the defaults
	// each peer connected by TCP costs 8 MiB.
	SlotBytes int
	Slots     int
	// HeaderBytes bounds a received header. Default 64 KiB.
	HeaderBytes int
	// Queue bounds the messages per pair that were posted and whose Sent has not
	// been polled. Default 4·Slots + 64.
	Queue int
	// PeerTimeout bounds how long a silent or stuck peer stays undetected.
	// Default 2 s: a stopped process is Lost between 2.0 and 2.3 s later. A message
	// that has begun to come is stuck where less than a kilobyte of it comes in that
	// time (more where the peer's PeerTimeout is shorter); with TLS what comes is
	// counted by records of up to 16 KiB.
	PeerTimeout time.Duration
	// DialTimeout bounds making a connection, retries and the wait for the peer's
	// SetPeer included. Default 2 s.
	DialTimeout time.Duration
	// Connections is how many TCP connections this end makes when it dials a peer:
	// with one everything shares it; with more the first is for credits, signs of
	// life and goodbyes, so that they do not wait behind bodies, and messages take
	// turns on the others. Default 2, at most 16.
	Connections int
	// Pace bounds what a TCP connection of messages sends, in bytes a second, and
	// Congestion names the kernel's algorithm of congestion control for it ("bbr",
	// say): where many senders share a link whose queues are long, either keeps the
	// queues short. Defaults: no bound, the system's. Both are Linux's.
	Pace       int
	Congestion string
	// Dial makes a TCP connection to HOST:PORT; nil means plain TCP. For tests, and
	// for networks with ways of their own.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// TLS secures TCP connections: TLS 1.3, mutual. It serves both roles, so it has
	// RootCAs and ServerName for dialling, and Certificates, ClientCAs and
	// ClientAuth for accepting. Connections of Dial and of listeners are wrapped in
	// it too. nil means plain TCP, whose payloads carry checksums; with TLS they
	// carry none. Memory transports do not use it.
	TLS *tls.Config
	// Fabric is a transport of the program's, for peers at ucx: addresses that have
	// one of the same name; the endpoint drives and closes it. nil means none.
	Fabric Fabric
	// ReadyTimeout bounds the wait for a message's Ready event. Default 1 min.
	ReadyTimeout time.Duration
	// SpinFor is how long Poll looks again and again before it sleeps: where what
	// comes usually comes as soon as that, and no more threads of the host are busy
	// than there are cores. Sleeping costs a wake-up of some 5 µs, spinning a core.
	// Default 50 µs; negative: never. In one process, where a wake-up costs less, 0
	// means not to spin.
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

// maxID bounds an id: two of them fit into a greeting, whatever they are.
const maxID = 255

func checkID(id string) error {
	if id == "" || len(id) > maxID {
		return fmt.Errorf("m2n: Config.ID has %d bytes, want 1 to %d", len(id), maxID)
	}
	return nil
}

// maxBytes bounds SlotBytes and HeaderBytes: lengths on the wire have 32 bits.
const maxBytes = 1 << 31

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
