// Package serve defines the types that its sub-packages share: a request, its events
// and its stream, the engine that serves it, the worker that an engine gives it to,
// and the errors that may end it. It may not know HTTP or text, nor how anything is
// computed.
package serve
