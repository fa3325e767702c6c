// Package completion turns an engine of tokens into one of text: prompts become
// sequences of the engine, and the output tokens become streamed text, with stop
// strings, several choices, log-probabilities and usage. It may not know HTTP or
// JSON, nor how an engine computes.
//
// The life of a completion:
//
//	Request → one sequence per prompt and choice → serve.Engine
//	serve.Event → decoder (text, stop strings) → Delta → caller
//
// The decoder is pure: events in, deltas out.
package completion
