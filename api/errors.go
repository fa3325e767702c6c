package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/completion"
)

// Error is an answer that is not 200, in OpenAI's format.
type Error struct {
	// Status is the HTTP status code.
	Status int
	// Message is for a person.
	Message string
	// Type is OpenAI's: "invalid_request_error", "server_error", ….
	Type string
	// Param is the request's field that is at fault; empty: none.
	Param string
	// Code is for a program; empty: none.
	Code string
	// RetryAfter, where it is not 0, is sent as a header.
	RetryAfter time.Duration
}

func (e *Error) Error() string { return e.Message }

// MarshalJSON writes {"error": {…}}, with null for an empty param and code.
func (e *Error) MarshalJSON() ([]byte, error) {
	type body struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	return json.Marshal(struct {
		Error body `json:"error"`
	}{body{e.Message, e.Type, orNull(e.Param), orNull(e.Code)}})
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// invalid is a request that the client has to change.
func invalid(param, format string, args ...any) *Error {
	return &Error{
		Status: http.StatusBadRequest, Type: "invalid_request_error",
		Param: param, Message: fmt.Sprintf(format, args...),
	}
}

// unsupported is a field that would change the answer and is not implemented.
func unsupported(param, reason string) *Error {
	e := invalid(param, "%s: %s", param, reason)
	e.Code = "unsupported_parameter"
	return e
}

// clientClosed is nginx's status for a client that went away; nobody reads it.
const clientClosed = 499

// engineFields are the names that this API has for the fields of a
// completion.Request and a serve.Request.
var engineFields = map[string]string{
	"Prompt": "prompt", "N": "n", "MaxTokens": "max_tokens", "MinTokens": "min_tokens",
	"Stop": "stop", "StopIDs": "stop_token_ids", "Logprobs": "logprobs", "PromptLogprobs": "logprobs",
	"Temperature": "temperature", "TopK": "top_k", "TopP": "top_p", "MinP": "min_p",
	"RepetitionPenalty": "repetition_penalty", "PresencePenalty": "presence_penalty",
	"FrequencyPenalty": "frequency_penalty", "LogitBias": "logit_bias", "Seed": "seed",
}

// asError turns any error of serving into an answer.
func asError(err error) *Error {
	var (
		own         *Error
		bad         *serve.InvalidError
		long        *completion.LengthError
		busy        *serve.BusyError
		unavailable *serve.UnavailableError
	)
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &long):
		return tooLong("prompt", err.Error())
	case errors.As(err, &bad):
		name := fieldName(bad.Field)
		return invalid(name, "%s: %s", cmp.Or(name, bad.Field), bad.Reason)
	case errors.As(err, &busy):
		return &Error{
			Status: http.StatusTooManyRequests, Type: "rate_limit_error", Code: "rate_limit_exceeded",
			Message: busy.Error(), RetryAfter: time.Second,
		}
	case errors.As(err, &unavailable):
		return notReady(unavailable.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{
			Status: http.StatusGatewayTimeout, Type: "server_error", Code: "request_timeout",
			Message: "the request took longer than the server's limit",
		}
	case errors.Is(err, context.Canceled):
		return &Error{Status: clientClosed, Type: "server_error", Code: "cancelled",
			Message: "the client closed the request"}
	case errors.Is(err, serve.ErrNotFinite):
		return &Error{Status: http.StatusInternalServerError, Type: "server_error", Code: "not_finite",
			Message: err.Error()}
	default:
		return &Error{Status: http.StatusInternalServerError, Type: "server_error", Message: err.Error()}
	}
}

// overflow is OpenAI's code for a prompt that does not fit.
const overflow = "context_length_exceeded"

// tooLong is a prompt that does not fit, in OpenAI's words: clients look for them,
// litellm for the first ones, and LangChain for the code, which OpenAI's client
// leaves out of an error's text. The field is where the prompt stood.
func tooLong(field, text string) *Error {
	e := invalid(field, "%s (%s)", text, overflow)
	e.Code = overflow
	return e
}

// fieldName is the API's name of an engine's field: "Sampling.TopP" is "top_p".
// Empty: it has none.
func fieldName(field string) string {
	return engineFields[field[strings.LastIndexByte(field, '.')+1:]]
}

func notReady(reason string) *Error {
	return &Error{
		Status: http.StatusServiceUnavailable, Type: "server_error", Code: "service_unavailable",
		Message: reason, RetryAfter: time.Second,
	}
}

// writeError answers with an error.
func writeError(w http.ResponseWriter, e *Error) {
	if e.RetryAfter > 0 {
		seconds := int64((e.RetryAfter + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.FormatInt(seconds, 10))
	}
	writeJSON(w, e.Status, e)
}
