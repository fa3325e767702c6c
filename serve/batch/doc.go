// Package batch decides which rows an attention node computes next: continuous
// batching with chunked prefill over several micro-batches, admission,
// preemption, and the choice of a node for a request. It is a pure state machine:
// requests, cancellations and finished steps in, steps out. It may not know
// clocks, goroutines, kernels, logits or text.
//
// # The life of a request
//
//	Submit → waiting → (pages for all its tokens) → running in one micro-batch
//	→ prefill in chunks → decode, a token a step → finished
//
// The runtime asks for a micro-batch's next step while none of its rows is in
// flight ([Batcher.Next]), and hands in the step's results ([Batcher.Done]). A
// step takes the micro-batch's decoding sequences first, one row each, then chunks
// of prompts, in order of arrival, until it has MaxBatchedTokens rows.
//
// # Pages
//
// A request starts when there are pages for all the tokens that it has, its cached
// prefix included, and one free page more for each older running sequence that
// will need further pages. Running sequences that decode take further pages one by
// one, before any waiting request starts.
//
// A sequence that is short of pages preempts younger sequences that are in no
// step, the youngest first, unless all their pages together would be too few. In
// that case the sequence sits out, and no younger sequence gets pages until it has
// its own: freed pages collect for it. A preempted request waits again, ahead of
// all requests that arrived later. It keeps its output; its tokens are computed
// again, except for those that the cache still holds.
//
// The runtime should ask every idle micro-batch for a step after each event, since
// pages freed in one micro-batch may serve a sequence of another.
//
// # Invariants
//
//   - A sequence is preempted or ended, and its pages freed, only between its
//     own steps.
//   - The oldest request is never preempted for another. Where it is short of
//     pages, the others run on in the pages that they have, at most to the end of
//     a page, and can then be preempted for it. So the oldest request always
//     finishes, and so does every request, once it is the oldest.
//   - A step has at most MaxBatchedTokens rows; at most MaxNumSeqs sequences
//     run, at most ⌈MaxNumSeqs / MicroBatches⌉ in one micro-batch.
//   - Other requests change when a request's rows are computed, never which rows.
package batch
