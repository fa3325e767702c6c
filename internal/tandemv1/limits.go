package tandemv1

import "math"

// Sizes of messages, in bytes.
const (
	// MaxHello bounds what is read of who has not joined: its messages cannot be
	// weighed against anything yet.
	MaxHello = 64 << 10
	// MaxMessage bounds every other message, in both directions.
	MaxMessage = 4 << 20
	// Piece is what a message of several parts is filled up to. One part may be
	// larger, up to MaxMessage.
	Piece = 256 << 10
)

// limit is what a field may hold: the value of a number, the bytes of a text, the
// entries of a list or a map. A field's name followed by [] is each entry of a list.
type limit struct {
	field       string
	least, most float64
	reason      string
}

// Numbers that several fields share.
const (
	tokens  = 1 << 24 // the longest sequences of known models have 10⁷ tokens
	entries = 1 << 17 // of a list of tokens in one message
	anyID   = math.MaxUint64
	id      = 128 // bytes of a member's id
	address = 320 // a host name of 253 bytes, port and transports
)

// limits is every field of every message between processes. Check holds a message
// against it before anything is allocated or computed by it. What depends on more
// than the field (a token and the vocabulary, an offer and the settings) is checked
// by who knows the rest.
var limits = []limit{
	{"Hello.role", 1, 16, "a role is a word"},
	{"Hello.addr", 1, address, "an address is transports, a host and a port"},
	{"Hello.place", 0, 1 << 10, "so many places of experts there can be"},
	{"Hello.wire", 0, 32, "the name of a format"},
	{"Hello.combine", 0, 32, "the name of a way"},
	{"Identity.version", 0, 128, "the version of a program"},
	{"Identity.model", 0, 128, "a hash in hexadecimal"},
	{"Identity.layers", 0, 1 << 16, "known models have 10² layers"},
	{"Identity.experts", 0, 1 << 20, "known models have 10³ experts a layer"},
	{"Identity.top_k", 0, 1 << 16, "known models choose 10 experts"},
	{"Identity.numerics", 0, 256, "a description in a line"},
	{"Beat.loaded", 0, 1 << 50, "more bytes than any model's weights have"},
	{"Beat.steps", 0, anyID, "a counter"},
	{"Beat.awaited", 0, 1 << 10, "a node waits for experts at most"},
	{"Beat.awaited[]", 1, id, "a member's id"},
	{"Beat.action", 0, 64, "a word"},
	{"Weights.digests", 0, 1 << 12, "a node sends more in several messages"},
	{"Weights.digests[]", 0, anyID, "any digest"},
	{"Weights.placement", 0, anyID, "a counter"},
	{"Ready.placement", 0, anyID, "a counter"},
	{"Placed.placement", 1, anyID, "a counter"},
	{"Reach.unreached", 0, 1 << 10, "so many places of experts there can be"},
	{"Unreached.attention", 0, id, "a member's id"},
	{"Unreached.expert", 1, id, "a member's id"},
	{"Unreached.reason", 0, 1 << 10, "a sentence"},
	{"Welcome.token", 0, 128, "a secret in hexadecimal"},
	{"Member.id", 1, id, "a role, a number and a life of the front end"},
	{"Member.role", 1, 16, "a role is a word"},
	{"Member.addr", 0, address, "an address is transports, a host and a port"},
	{"Member.epoch", 0, anyID, "a time in microseconds"},
	{"Member.place", 0, 1 << 16, "more places than there can be members"},
	{"Member.placement", 0, anyID, "a counter"},
	{"Placement.version", 1, anyID, "a counter"},
	{"Placement.experts", 1, MaxPlacement, "60 layers of 256 experts, each on two nodes, take 50 KB"},
	{"View.version", 0, anyID, "a counter"},
	{"View.expert_nodes", 1, 1 << 10, "--experts takes no more"},
	{"View.micro_batches", 1, 64, "they are a set of 64 bits"},
	{"View.members", 0, 1 << 12, "more members than a front end admits"},
	{"View.max_model_len", 0, tokens, "0 is the model's own"},
	{"View.max_batched_tokens", 0, 1 << 20, "--max-num-batched-tokens takes no more, 0 is the default"},
	{"View.unreached", 0, 1 << 14, "pairs of members that are not connected"},
	{"View.wire", 0, 32, "the name of a format"},
	{"View.combine", 0, 32, "the name of a way"},

	{"Offer.node", 1, id, "a member's id"},
	{"Offer.epoch", 0, anyID, "a time in microseconds"},
	{"Limits.vocabulary", 1, tokens, "known vocabularies have 10⁵ tokens"},
	{"Limits.max_model_len", 1, tokens, "the longest sequences of known models have 10⁷ tokens"},
	{"Limits.cache_tokens", 1, 1 << 34, "at 100 bytes a token, more than a host's memory"},
	{"Limits.page_tokens", 1, 1 << 12, "--page-tokens takes no more than 256"},
	{"Limits.max_num_seqs", 1, 1 << 16, "--max-num-seqs takes no more"},
	{"Limits.max_batched_tokens", 1, 1 << 20, "--max-num-batched-tokens takes no more"},
	{"Request.id", 0, anyID, "a counter"},
	{"Request.prompt", 0, entries, "a longer one comes in several messages"},
	{"Request.prompt[]", 0, tokens, "a token of the vocabulary"},
	{"Request.output", 0, entries, "a longer one comes in several messages"},
	{"Request.output[]", 0, tokens, "a token of the vocabulary"},
	{"Request.max_tokens", 0, tokens, "the longest sequences of known models have 10⁷ tokens"},
	{"Request.min_tokens", 0, tokens, "no more than max_tokens makes sense"},
	{"Request.stop_ids", 0, MaxStopIDs, "the API takes 256, and a model has a few"},
	{"Request.stop_ids[]", 0, math.MaxInt32, "a token, of the vocabulary or not"},
	{"Request.logprobs", -1, tokens, "candidates of the vocabulary, −1 is none"},
	{"Request.prompt_logprobs", -1, tokens, "candidates of the vocabulary, −1 is none"},
	{"Sampling.temperature", 0, math.MaxFloat64, "a divisor"},
	{"Sampling.top_k", 0, math.MaxInt64, "a number of tokens, larger than the vocabulary is all"},
	{"Sampling.top_p", 0, 1, "a probability"},
	{"Sampling.min_p", 0, 1, "a probability"},
	{"Sampling.repetition_penalty", 0, math.MaxFloat64, "a divisor"},
	{"Sampling.presence_penalty", -math.MaxFloat64, math.MaxFloat64, "a number, not an infinite one"},
	{"Sampling.frequency_penalty", -math.MaxFloat64, math.MaxFloat64, "a number, not an infinite one"},
	{"Sampling.logit_bias", 0, MaxBiases, "more would not fit into a message"},
	{"Sampling.seed", 0, anyID, "any seed"},
	{"Sampling.choice", 0, math.MaxUint32, "any choice"},
	{"Cancel.id", 0, anyID, "a counter"},
	{"Events.events", 0, 1 << 16, "a step has fewer sequences"},
	{"Event.id", 0, anyID, "a counter"},
	{"Event.token", 0, tokens, "a token of the vocabulary"},
	{"Event.index", 0, tokens, "a place in the output"},
	{"Event.prompt", 0, entries, "a longer one comes in several events"},
	{"Event.cached_tokens", 0, tokens, "tokens of the prompt"},
	{"Event.finish", 0, 16, "a reason of the API's"},
	{"Failure.kind", 0, 5, "a kind of this version"},
	{"Failure.field", 0, 64, "the name of a field"},
	{"Failure.reason", 0, MaxReason, "a sentence"},
	{"Failure.waiting", 0, math.MaxInt32, "requests in a queue"},
	{"Failure.limit", 0, math.MaxInt32, "requests in a queue"},
	{"TokenLogprob.token", 0, tokens, "a token of the vocabulary"},
	{"TokenLogprob.logprob", math.Inf(-1), 1, "the logarithm of a probability, with its rounding"},
	{"TokenLogprob.top", 0, MaxTop, "more would not fit into a message"},
	{"Candidate.token", 0, tokens, "a token of the vocabulary"},
	{"Candidate.logprob", math.Inf(-1), 1, "the logarithm of a probability, with its rounding"},
}

// Limits that senders keep to as well.
const (
	// MaxStopIDs bounds the stop ids of a request, MaxBiases the tokens whose logits
	// it changes, MaxTop the candidates in a token's place.
	MaxStopIDs, MaxBiases, MaxTop = 1 << 10, 1 << 15, 1 << 19
	// MaxReason bounds the bytes of a failure's reason.
	MaxReason = 4 << 10
	// MaxPlacement bounds the bytes of a placement of experts.
	MaxPlacement = 512 << 10
)
