// Package kvcache owns the pages of one attention node's KV cache: which
// sequence holds which page, which pages hold a prefix that may be reused, and
// which page goes next. It deals in page indices and bytes; it may not know
// kernels, memory layouts, or why a sequence wants room.
//
// A page has room for a fixed number of tokens and is in one of three states:
//
//	free        holds nothing
//	referenced  belongs to one sequence, or to several that share a prefix
//	cached      no sequence refers to it, but it holds a known prefix: it is
//	            reused when that prefix comes again, or evicted, least recently
//	            used first, when no page is free
//
// A page that a sequence has filled is keyed by all that its content depends on:
// model, numerics and the tokens up to its end ([Key]). Only full pages are
// shared; the page that a sequence writes to is its own. At least the last token
// of a sequence is always computed, so that there are logits to go on from.
//
// A [Cache] is used by one goroutine at a time. It never touches the memory: the
// runtime gives a [Memory] where pages travel as bytes.
package kvcache
