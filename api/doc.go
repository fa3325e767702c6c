// Package api owns the HTTP interface: OpenAI's completions and chat
// completions, vLLM's extensions of them, tokenisation, health and metrics. It
// may not know how tokens are computed: text comes from package completion.
//
// Nothing that a client asks for is passed over. A field is implemented, is
// known to leave the answer as it is (user, metadata, …), or is refused with a
// 400 that names it in "param"; so is a field that nobody knows.
package api
