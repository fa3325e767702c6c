// Package kvcache manages the pages of one attention node's KV cache: which
// sequence holds which page, which pages hold a prefix that may be reused, and
// which page is evicted next. It deals in page indices and bytes; it may not know
// kernels, memory layouts, or why a sequence wants room.
//
// A page has room for a fixed number of tokens and is in one of three states:
//
//	free        holds nothing
//	referenced  belongs to one sequence, or to several that share a prefix
//	cached      no sequence refers to it, but it holds the end of a known prefix:
//	            it is reused for a sequence with that prefix, or evicted, least
//	            recently used first, when no page is free
//
// The key of a full page covers all that its content depends on: model, numerics
// and the sequence's tokens up to the page's end ([Key]). Only full pages are
// shared; the page that a sequence writes to is its own. At least the last token
// of a sequence is always computed, since its logits give the next token.
//
// A [Cache] must be used by one goroutine at a time. It never touches keys and
// values itself: to send and receive pages it uses the runtime's [Memory].
package kvcache
