package api

import "net/http"

// eventStream writes server-sent events. Its header goes out with the first, so
// that an error before that is an answer of its own.
type eventStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

func newEventStream(w http.ResponseWriter) *eventStream {
	return &eventStream{w: w, control: http.NewResponseController(w)}
}

// send writes one event. An error: the client has gone, or does not read.
func (e *eventStream) send(v any) error { return e.data(encode(v)) }

func (e *eventStream) data(data []byte) error {
	if !e.begun {
		e.begun = true
		h := e.w.Header()
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Accel-Buffering", "no")
		e.w.WriteHeader(http.StatusOK)
	}
	event := append(append([]byte("data: "), data...), "\n\n"...)
	if _, err := e.w.Write(event); err != nil {
		return err
	}
	return e.control.Flush()
}

// done ends a stream that is whole.
func (e *eventStream) done() error { return e.data([]byte("[DONE]")) }
