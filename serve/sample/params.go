// Package sample chooses a token from a row of logits: a chain of processors, and a
// draw from a counter-based generator. It may not know where logits come from, or
// anything of requests.
package sample

// Params says how a token is chosen. A zero field means off, unless its comment says
// something else.
type Params struct {
	// Temperature divides the logits; 0 means greedy: the token with the best logit,
	// of equal logits the lowest id.
	Temperature float64
	// TopK keeps so many of the best candidates; 0 means all.
	TopK int
	// TopP keeps the smallest set of best candidates whose probabilities sum to at
	// least TopP; 0 and 1 mean all.
	TopP float64
	// MinP keeps candidates with at least this share of the best candidate's
	// probability.
	MinP float64
	// RepetitionPenalty divides positive and multiplies negative logits of tokens
	// in prompt or output; 0 and 1 mean off (the CTRL paper, section 4.1; vLLM).
	RepetitionPenalty float64
	// PresencePenalty and FrequencyPenalty are OpenAI's, for tokens of the output:
	// see [OutputPenalty].
	PresencePenalty  float64
	FrequencyPenalty float64
	// LogitBias maps tokens to what is added to their logits.
	LogitBias map[int32]float64
	// Seed, Choice and the output position determine a draw's random bits, so that
	// the draw does not depend on the server, the batch or a restart. Choice tells
	// apart the outputs that share a seed.
	Seed   uint64
	Choice uint32
}
