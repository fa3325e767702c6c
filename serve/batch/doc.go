// Package batch owns the decision which rows an attention node computes next:
// continuous batching with chunked prefill over several micro-batches, admission,
// preemption, and the choice of a node for a request. It is a pure state machine:
// requests, cancellations and finished steps in, steps out. It may not know
// clocks, goroutines, kernels, logits or text.
//
// # The life of a request
//
//	Submit → waiting → (pages for all its tokens) → running in one micro-batch
//	→ prefill in chunks → decode, a token a step → finished
//
// A micro-batch is asked for its next step while none of its rows is in flight
// ([Batcher.Next]), and told what the step gave ([Batcher.Done]). A step takes
// the micro-batch's decoding sequences first, one row each, then chunks of
// prompts, in order of arrival, until it has MaxBatchedTokens rows.
//
// # Pages
//
// A request starts when there are pages for all tokens that it has, a cached
// prefix counted, and one more for each older sequence that will want some.
// Decoding takes further pages one by one, before anybody starts. A sequence
// short of pages takes them from younger ones: the youngest that is in no step is
// preempted first, and none where all of them together would not do. If that
// fails, the sequence sits out, and until it is served no younger one gets pages:
// they collect for it. A preempted request waits again, before all that came
// later; its output stays, and its tokens are computed again except for what the
// cache still holds.
//
// A runtime asks every idle micro-batch whenever something has happened, for
// what one sequence gives up may serve another's.
//
// # Invariants
//
//   - A sequence is preempted or ended, and its pages freed, only between its
//     own steps.
//   - The oldest request is never a victim. Where it is short of pages, the
//     others run on in those that they have, at most to the end of a page, and
//     then are its victims: so it goes on, whatever comes after it, and so does
//     every request once it is the oldest.
//   - A step has at most MaxBatchedTokens rows; at most MaxNumSeqs sequences
//     run, at most ⌈MaxNumSeqs / MicroBatches⌉ in one micro-batch.
//   - What a request gets depends on no other request, except when it gets it.
package batch
