package serve

// Report is what an attention node reports on a request: an event, or the error that
// ended the request.
type Report struct {
	ID    uint64
	Event Event
	// More says that Event is a piece of an event, with nothing but log-probabilities
	// of the prompt; the event's other pieces follow.
	More bool
	Err  error
}

// Last says that no other report on the request follows.
func (r Report) Last() bool { return r.Err != nil || r.Event.Finish != "" }
