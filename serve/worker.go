package serve

// Worker is an attention node as the front end sees it. Its methods do not
// block.
type Worker interface {
	// Submit hands over a request. What becomes of it is reported.
	Submit(r Request)
	// Cancel ends a request where it still runs; nothing more is reported of it,
	// or a little that was under way.
	Cancel(id uint64)
}

// Offer is what a worker says of itself.
type Offer struct {
	Node  string
	Epoch uint64
	Limits
	// PageTokens is the size of a page of its KV cache; MaxNumSeqs how many
	// sequences it runs at once; MaxBatchedTokens the rows of a step.
	PageTokens, MaxNumSeqs, MaxBatchedTokens int
}
