package serve

// Report is what an attention node says of a request: an event, or the error
// that ended it.
type Report struct {
	ID    uint64
	Event Event
	// More: Event is a piece of one, with log-probabilities of the prompt alone; the
	// rest follows.
	More bool
	Err  error
}

// Last says that nothing more comes of the request.
func (r Report) Last() bool { return r.Err != nil || r.Event.Finish != "" }
