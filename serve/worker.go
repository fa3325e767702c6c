package serve

// Worker is an attention node as the front end sees it. Its methods do not
// block.
type Worker interface {
	// Submit hands over a request; the worker answers with reports.
	Submit(r Request)
	// Cancel ends a request if it still runs. Reports on it that were on their way
	// may still come.
	Cancel(id uint64)
}

// Offer is what a worker says of itself when it offers to work for a front end.
type Offer struct {
	Node  string
	Epoch uint64
	Limits
	// PageTokens is how many tokens a page of its KV cache holds, MaxNumSeqs how many
	// sequences it runs at once, MaxBatchedTokens how many rows a step has at most.
	PageTokens, MaxNumSeqs, MaxBatchedTokens int
}
