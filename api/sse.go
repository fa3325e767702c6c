package api

import "net/http"

// eventStream writes server-sent events. Its header goes out with the first, so
// that an error before that is an answer of its own.
type eventStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
	// gone says that the client has left, or does not read.
	gone bool
}

func newEventStream(w http.ResponseWriter) *eventStream {
	return &eventStream{w: w, control: http.NewResponseController(w)}
}

// send writes one event.
func (e *eventStream) send(v any) { e.write(encode(v)) }

// done ends a stream that is whole.
func (e *eventStream) done() { e.write([]byte("[DONE]")) }

func (e *eventStream) write(data []byte) {
	if !e.begun {
		e.begin()
	}
	event := append(append([]byte("data: "), data...), "\n\n"...)
	_, err := e.w.Write(event)
	if err == nil {
		err = e.control.Flush()
	}
	e.gone = e.gone || err != nil
}

func (e *eventStream) begin() {
	e.begun = true
	h := e.w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no")
	e.w.WriteHeader(http.StatusOK)
}
