// Package sample owns the choice of a token from a row of logits: a chain of
// processors, and a draw from a counter-based generator. It may not know where
// logits come from or who asked.
package sample

// Params says how a token is chosen. The zero value of a field that is not
// commented otherwise means off.
type Params struct {
	// Temperature divides the logits; 0 means greedy: the best logit, ties to the
	// lower id.
	Temperature float64
	// TopK keeps the k best; 0 means all.
	TopK int
	// TopP keeps the smallest set of best candidates whose probability reaches
	// it; 0 and 1 mean all.
	TopP float64
	// MinP keeps candidates with at least this share of the best's probability.
	MinP float64
	// RepetitionPenalty divides positive and multiplies negative logits of tokens
	// in prompt or output; 0 and 1 mean off (the CTRL paper, section 4.1; vLLM).
	RepetitionPenalty float64
	// PresencePenalty and FrequencyPenalty are OpenAI's, over the output.
	PresencePenalty  float64
	FrequencyPenalty float64
	// LogitBias is added to the logits of tokens.
	LogitBias map[int32]float64
	// Seed and Choice key the generator together with the output position, so
	// that a draw never depends on a server, a batch or a restart.
	Seed   uint64
	Choice uint32
}
