// Package serve owns serving: batching, the KV cache, attention and expert
// nodes, sampling. It may not know HTTP or text.
package serve
