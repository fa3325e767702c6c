package m2n

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tandem-moe/tandem/m2n/internal/wire"
)

// The hops of a message, from Post to the peer's Poll, and of its credit back.
//
// By TCP:
//
//	sender    Endpoint.Post              post.go                 checks the spans, queues the message
//	          pair.post                  pair.go
//	          wireLink.flush             wirelink.go             on the poster's goroutine
//	          lane.gather                lane.go                 some messages, that have a credit each
//	          pair.dequeue               pair.go
//	          sendWindow.spend           window.go
//	          wire.Batch.AddFrame        batch.go
//	          lane.writeBatch            lane.go
//	          poll.Socket.Write          socket_linux.go
//	          lane.finishBatch           lane.go
//	          pair.sent                  pair.go                 Sent: the spans are the poster's again
//	receiver  Endpoint.Poll              post.go
//	          engine.sleep               engine.go               the consumer itself waits and reads
//	          poll.Poller.Serve          poller_linux.go
//	          socketConn.Readable        conn_linux.go
//	          lane.bytesRead             lane.go
//	          wire.Assembler.Advance     assembler.go
//	          wireLink.claimSlot         wirelink.go             where the body is read to
//	          wireLink.messageComplete   wirelink.go
//	          reorderBuffer.accept       reorder.go
//	          wireLink.deliver           wirelink.go
//	          completionQueue.push       completions.go          Received: Poll returns it
//	          Endpoint.Release           post.go
//	          wireLink.releaseSlot       wirelink.go
//	          receiveWindow.owe          window.go
//	          lane.numberFrames          lane.go                 with the next frame, or a keep-alive when due
//	sender    lane.checkFrame            lane.go
//	          wireLink.acceptCredits     wirelink.go
//	          sendWindow.refill          window.go
//
// Where the kernel has no room, writeBatch leaves the rest to socketConn.resumeLater,
// and the driver of the sender's engine goes on with lane.resume. With TLS, a streamConn
// stands for the socketConn: its goroutines read and write.
//
// By shared memory:
//
//	sender    pair.post                  pair.go
//	          wireLink.flush             wirelink.go
//	          shmTransport.flush         transport_shm.go
//	          shmTransport.beginSend     transport_shm.go        a message, a credit and a free slot
//	          shm.Ring.Publish           ring.go                 the only copy
//	          shm.Doorbell.Signal        doorbell.go             wakes the peer where it sleeps
//	          shmTransport.finishSend    transport_shm.go        Sent
//	receiver  engine.sleep               engine.go
//	          shm.Page.Poll              page_linux.go
//	          shmTransport.receive       transport_shm.go
//	          shm.Ring.Read              ring.go
//	          receiveWindow.claim        window.go
//	          wireLink.deliver           wirelink.go             Received
//	          wireLink.releaseSlot       wirelink.go             by Release
//	          shmTransport.releaseSlot   transport_shm.go
//	          shm.Ring.PutReturn         ring.go                 signals only a sender that starves
//	sender    shmTransport.collectReturns  transport_shm.go      when it has no credit left
//
// In one process:
//
//	sender    pair.post                  pair.go
//	          inprocLink.flush           inproc.go
//	          inprocLink.deliver         inproc.go               Received, with the sender's spans
//	receiver  outgoing.release           inproc.go               by Release
//	sender    outgoing.returnSpans       inproc.go               Sent, and the credit

// Post queues a message to a peer and returns the token of its Sent completion.
// It never blocks. Errors, by errors.Is: ErrUnknownPeer, *LostError, ErrQueueFull,
// ErrTooLarge, ErrClosed; and a span outside of its region.
func (e *Endpoint) Post(peer string, m Message) (uint64, error) {
	p, err := e.peer(peer)
	if err != nil {
		return 0, err
	}
	bytes, err := bodyBytes(m.Body)
	if err != nil {
		return 0, fmt.Errorf("post to peer %q: %w", peer, err)
	}
	o := &outgoing{
		pair: p, token: e.tokens.Add(1), header: slices.Clone(m.Header), body: slices.Clone(m.Body),
		bytes: bytes, ready: m.Ready, posted: time.Now(),
	}
	if err := p.post(o); err != nil {
		return 0, err
	}
	if g := e.engine.Load(); g != nil {
		g.yield(now())
	}
	return o.token, nil
}

// peer returns the pair of a peer.
func (e *Endpoint) peer(id string) (*pair, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.closing {
		return nil, fmt.Errorf("post to peer %q: %w", id, ErrClosed)
	}
	p := e.pairs[id]
	if p == nil {
		return nil, fmt.Errorf("post to peer %q: %w", id, ErrUnknownPeer)
	}
	return p, nil
}

// bodyBytes checks the spans and adds their lengths.
func bodyBytes(body []Span) (int, error) {
	if len(body) > wire.MaxSpans {
		return 0, fmt.Errorf("%w: %d spans, the limit is %d", ErrTooLarge, len(body), wire.MaxSpans)
	}
	n := 0
	for i, s := range body {
		if s.Region == nil {
			return 0, fmt.Errorf("span %d has no region", i)
		}
		if s.Off < 0 || s.Len < 0 || s.Off > len(s.Region.Bytes)-s.Len {
			return 0, fmt.Errorf("span %d (offset %d, length %d) is outside of its region of %d bytes",
				i, s.Off, s.Len, len(s.Region.Bytes))
		}
		n += s.Len
	}
	return n, nil
}

// Poll returns the next completion, waiting for one until ctx ends. After Close it
// returns the Sent and Lost completions that are left, and then ErrClosed. Poll itself
// reads what other processes send: while the consumer does not poll, a message may be
// noticed 32 ms late.
func (e *Endpoint) Poll(ctx context.Context) (Completion, error) {
	for {
		if c, ok := e.pop(); ok {
			return c, nil
		}
		if err := e.waitForCompletion(ctx); err != nil {
			return Completion{}, err
		}
	}
}

// TryPoll returns the next completion, if there is one. It does not wait.
func (e *Endpoint) TryPoll() (Completion, bool) {
	c, ok := e.pop()
	if g := e.engine.Load(); !ok && g != nil {
		g.tryProgress()
		return e.pop()
	}
	return c, ok
}

// pop returns the next completion that the consumer may see.
func (e *Endpoint) pop() (Completion, bool) {
	for {
		c, ok := e.completions.pop()
		if !ok || c.handOut() {
			return c, ok
		}
	}
}

// handOut counts that the consumer gets c. It returns false, and drops c, for a message
// of a pair of which Lost has been polled, or that was replaced or removed.
func (c *Completion) handOut() bool {
	switch c.Kind {
	case Received:
		if c.pair.discarded.Load() {
			c.pair.counters.droppedOld.Add(1)
			c.held.drop()
			return false
		}
		c.pair.counters.handedOut(c.Posted)
	case Sent:
		c.pair.outstanding.Add(-1)
	case Lost:
		c.pair.discarded.Store(true)
	}
	return true
}

// Release gives a Received completion's spans back, and with them the credit to
// the sender. Releasing twice, or another kind of completion, does nothing.
func (e *Endpoint) Release(c Completion) {
	if c.held != nil {
		c.held.release()
	}
}
