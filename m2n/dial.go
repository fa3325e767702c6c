package m2n

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// Which connection a pair keeps. Either end may dial, and both may at once; then the
// connection that the end with the smaller id has dialled is kept:
//
//   - The end with the larger id accepts it, although that end is dialling too.
//   - The end with the smaller id lets a connection of the other end wait while a dial
//     attempt of its own is under way, and accepts it when the attempt has failed: the
//     peer may be at an address that cannot be dialled.
//
// So an end accepts a connection only while the peer cannot accept one of its own.

// dial connects the pair from this side, unless the peer is faster.
func (p *pair) dial() {
	ctx, cancel := context.WithTimeout(p.ctx, p.ep.cfg.DialTimeout)
	defer cancel()
	addr := p.startDial(cancel)
	if err := p.connect(ctx, addr); err != nil {
		p.dialFailed(err)
	}
}

// startDial gives the pair the means to end the dialling when the peer is faster.
func (p *pair) startDial(cancel context.CancelFunc) (addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.phase != connecting {
		cancel()
	}
	p.stopDial = cancel
	return p.addr
}

// dialFailed takes the pair down unless the peer has connected it meanwhile.
func (p *pair) dialFailed(err error) {
	p.mu.Lock()
	connected := p.phase == up
	p.mu.Unlock()
	if !connected {
		p.fail(err)
	}
}

// connect dials addr until the pair is up by that. ctx ends when the pair is up because
// the peer has dialled, or after DialTimeout.
func (p *pair) connect(ctx context.Context, addr string) error {
	if addr == "" {
		<-ctx.Done()
		return fmt.Errorf("the peer has no address and did not connect within %v", p.ep.cfg.DialTimeout)
	}
	transports, rest, err := splitAddr(addr)
	if err != nil {
		return err
	}
	if err := p.retryDial(ctx, func() error { return p.tryTransports(ctx, transports, rest) }); err != nil {
		return fmt.Errorf("connecting to %s: %w", addr, err)
	}
	return nil
}

// tryTransports connects by the first transport that is available, and notes why those
// before it are not.
func (p *pair) tryTransports(ctx context.Context, transports []string, addr string) error {
	var passed []error
	for _, t := range transports {
		err := p.dialBy(ctx, t, addr)
		if err == nil {
			p.noteTransport(t, passed)
			return nil
		}
		passed = append(passed, fmt.Errorf("%s: %w", t, err))
		if next := new(unavailableError); !errors.As(err, &next) {
			break
		}
	}
	return errors.Join(passed...)
}

// dialBy makes one attempt by one transport.
func (p *pair) dialBy(ctx context.Context, transport, addr string) error {
	switch transport {
	case "inproc":
		return p.dialInproc(ctx, addr)
	case "shm":
		return p.dialSHM(ctx, addr)
	case "ucx":
		return p.dialFabric(ctx, addr)
	}
	return p.dialTCP(ctx, addr)
}

// unavailableError says why a transport cannot connect two ends, so that the next one is
// tried.
type unavailableError struct{ reason string }

func (e *unavailableError) Error() string { return e.reason }

// noteTransport keeps which transport was chosen, and why, for Stats.
func (p *pair) noteTransport(transport string, passed []error) {
	why := "this end dialled"
	if len(passed) > 0 {
		why = errors.Join(passed...).Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.why = transport + ": " + why
}

// retryDial dials again, with growing pauses, until ctx ends or the peer refuses for
// good: ends may start in any order.
func (p *pair) retryDial(ctx context.Context, try func() error) (err error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if p.beginAttempt() {
			last := err
			err = try()
			p.endAttempt()
			switch {
			case err == nil || isFinal(err):
				return err
			case ctx.Err() != nil: // ctx has cut this attempt short: the error of the attempt before says more
				return errors.Join(last, err)
			}
			p.counters.retries.Add(1)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

// isFinal reports whether another attempt would fail in the same way.
func isFinal(err error) bool {
	var r *refusal
	var v *wire.VersionError
	return errors.As(err, &r) && !r.Temporary || errors.As(err, &v) || isUntrusted(err)
}

// isUntrusted reports whether one end does not trust the other's certificate.
func isUntrusted(err error) bool {
	var here *tls.CertificateVerificationError
	var there *net.OpError // crypto/tls returns it for an alert of the peer's
	return errors.As(err, &here) || errors.As(err, &there) && there.Op == "remote error"
}

// beginAttempt returns false where the pair needs no dial attempt: a connection of the
// peer waits to be accepted.
func (p *pair) beginAttempt() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempting = p.phase == connecting && p.waitingAccepts == 0
	return p.attempting
}

func (p *pair) endAttempt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempting = false
	p.changed.notify()
}

// awaitAccept waits until a connection that the peer has made may be accepted, or returns
// why it may not. Until acceptOver this end begins no dial attempt.
func (p *pair) awaitAccept(ctx context.Context) error {
	p.mu.Lock()
	p.waitingAccepts++
	err := p.waitAcceptable(ctx)
	p.mu.Unlock()
	if err != nil {
		p.acceptOver()
	}
	return err
}

func (p *pair) acceptOver() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waitingAccepts--
}

// waitAcceptable is called, and returns, with mu held.
func (p *pair) waitAcceptable(ctx context.Context) error {
	for {
		now, err := p.mayAccept()
		if now || err != nil {
			return err
		}
		changed := p.changed.next()
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			err = &refusal{Reason: fmt.Sprintf("%q is dialling itself", p.ep.cfg.ID), Temporary: true}
		}
		p.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// mayAccept reports whether a connection that the peer has made may be accepted now; an
// error says never. The caller holds mu.
func (p *pair) mayAccept() (bool, error) {
	switch {
	case p.phase == down:
		return false, &refusal{Reason: fmt.Sprintf("the pair was lost at %q: %v", p.ep.cfg.ID, p.cause)}
	case p.phase == up:
		return false, &refusal{Reason: fmt.Sprintf("the pair is up at %q", p.ep.cfg.ID), Temporary: true}
	}
	return p.id < p.ep.cfg.ID || !p.attempting, nil
}

// splitAddr splits an address: "shm+tcp:127.0.0.1:80" is shm, tcp and 127.0.0.1:80.
// Slashes may follow the first colon, as in a URL.
func splitAddr(addr string) (transports []string, rest string, err error) {
	scheme, rest, _ := strings.Cut(addr, ":")
	rest = strings.TrimPrefix(rest, "//")
	transports = strings.Split(scheme, "+")
	known := scheme == "inproc" || !slices.ContainsFunc(transports, func(t string) bool { return t != "shm" && t != "ucx" && t != "tcp" })
	if rest == "" || !known {
		return nil, "", fmt.Errorf("m2n: address %q is neither inproc:NAME nor one or several of shm, ucx and tcp, joined by +, and :HOST:PORT", addr)
	}
	return transports, rest, nil
}
