package api

import (
	"net/http"
	"sync"
	"time"
)

// eventStream writes server-sent events. It begins at once, with a comment, and
// goes on with comments while there is nothing else to say: proxies close a
// connection on which nothing comes.
type eventStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	every   time.Duration
	left    func()

	mu    sync.Mutex
	timer *time.Timer
	ended bool
	// gone says that the client has left, or does not read.
	gone bool
}

// comment is an event that clients pass over.
const comment = ": waiting\n\n"

// newEventStream begins a stream that is silent for no longer than every. left is
// called when the client turns out to have gone. The caller closes the stream.
func newEventStream(w http.ResponseWriter, every time.Duration, left func()) *eventStream {
	e := &eventStream{w: w, control: http.NewResponseController(w), every: every, left: left}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.write([]byte(comment))
	e.timer = time.AfterFunc(every, e.wait)
	return e
}

// wait breaks the silence, and waits for the next.
func (e *eventStream) wait() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return
	}
	e.write([]byte(comment))
	if !e.gone {
		e.timer.Reset(e.every)
	}
}

// send writes one event.
func (e *eventStream) send(v any) { e.event(encode(v)) }

// done ends a stream that is whole.
func (e *eventStream) done() { e.event([]byte("[DONE]")) }

// event writes one event.
func (e *eventStream) event(data []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.write(append(append([]byte("data: "), data...), "\n\n"...))
	e.timer.Reset(e.every)
}

// write sends what it is given at once. The caller has the lock.
func (e *eventStream) write(text []byte) {
	_, err := e.w.Write(text)
	if err == nil {
		err = e.control.Flush()
	}
	if err != nil && !e.gone {
		e.gone = true
		e.left()
	}
}

// abandoned says that the client has gone.
func (e *eventStream) abandoned() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gone
}

// close ends the comments: after it, nothing is written.
func (e *eventStream) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
	e.timer.Stop()
}
