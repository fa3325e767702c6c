// Package api owns the HTTP interface: OpenAI's completions and chat
// completions, vLLM's extensions of them, tokenisation, health and metrics. It
// may not know how tokens are computed: text comes from package completion.
//
// # What a client asks for
//
// Nothing is passed over in silence. A field is implemented, or is known to leave
// the answer as it is (user, metadata, store, …), or is refused with a 400 that
// names it in "param": every other field of OpenAI's and vLLM's, unless its value
// asks for nothing ([], "", the default). A field that nobody knows is ignored, as
// vLLM does it, with a line in the header "warnings" and in the log; a strict
// server refuses it, as OpenAI does. null is the same as leaving a field out.
// [Sampling], [CompletionRequest] and [ChatRequest] list what is implemented;
// where they are silent, the checkpoint's generation_config.json speaks, and then
// OpenAI's defaults.
//
// Tools are rendered into the prompt by the model's template; what the model
// writes is not parsed for calls and is returned as content, as it stands, with
// the finish reason "stop". A client that asks for more by tool_choice ("auto",
// "required", a function) is refused, so that none waits for calls that never
// come.
//
// Choice i of a request is drawn from (seed, i, position) alone: n = 1 gives the
// first choice of n = 5, and a list of prompts gives what each gives by itself.
//
// # What a client gets
//
// Log-probabilities are the model's own, before temperature and penalties, and
// cover every token, that which ended the output included. In completions a token
// of incomplete UTF-8 is named "bytes:\xe2\x80", as OpenAI has it; in chat it is
// U+FFFD, and its bytes are told. −∞ is −9999. token_ids and the usage count the
// token that ended the output; its text is left out.
//
// A stream begins at once, before its first token, with a comment, and has another
// whenever it was silent for a while: proxies close connections on which nothing
// comes. What is known of a request by then, that it is valid and has a place in
// the queue, has a status; a later error is an event {"error": …}, and the
// connection closes without [DONE].
//
// # Who may hold what
//
// Bodies, the sum of bodies, connections and times have limits ([Limits]). Where
// all connections are taken, a new one takes the place of the idlest of the client
// that has most; requests at work lose none.
package api
