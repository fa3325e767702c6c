package completion_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/golden"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/completion"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
)

// asked returns a request for one greedy continuation.
func asked(prompt string) completion.Request {
	return completion.Request{
		Prompts: [][]int32{enginetest.Bytes(prompt)}, N: 1, MaxTokens: 64,
		SkipSpecial: true, Logprobs: -1, PromptLogprobs: -1,
	}
}

// TestTraces prints the deltas of scripted outputs; the traces are the
// assertion.
func TestTraces(t *testing.T) {
	traces := []struct {
		name   string
		output []int32
		change func(*completion.Request)
	}{
		{"plain text up to the end of sequence", text("hi", enginetest.EOS), nil},
		{"a character of three bytes comes when it is whole", text("a€b", enginetest.EOS), nil},
		{"half a character at the end becomes U+FFFD", append(text("a", 0xe2, 0x82), enginetest.EOS), nil},
		{"a stop string across tokens is held back and taken away", text("one END two", enginetest.EOS), func(r *completion.Request) { r.Stop = []string{"END"} }},
		{"what looked like a stop string is shown late", text("ENTER", enginetest.EOS), func(r *completion.Request) { r.Stop = []string{"END"} }},
		{"the end of sequence shows what is held back", text("xEN", enginetest.EOS), func(r *completion.Request) { r.Stop = []string{"END"} }},
		{"a stop string that is included", text("one END two", enginetest.EOS), func(r *completion.Request) { r.Stop, r.IncludeStop = []string{"END"}, true }},
		{"no stop string within the first four tokens", text("abababab", enginetest.EOS), func(r *completion.Request) { r.Stop, r.MinTokens = []string{"ab"}, 4 }},
		{"max_tokens", text("abcdef", enginetest.EOS), func(r *completion.Request) { r.MaxTokens = 3 }},
		{"max_tokens within a stop string", text("aEND", enginetest.EOS), func(r *completion.Request) { r.MaxTokens, r.Stop = 3, []string{"END"} }},
		{"a stop id has no text", text("ab;c", enginetest.EOS), func(r *completion.Request) { r.StopIDs = []int32{';'} }},
		{"a stop id that is included", text("ab;c", enginetest.EOS), func(r *completion.Request) { r.StopIDs, r.IncludeStop = []int32{';'}, true }},
		{"no stop id within the first three tokens", text(";;;;;;"), func(r *completion.Request) { r.StopIDs, r.MinTokens = []int32{';'}, 3 }},
		{"end of sequence ignored", text("ab", enginetest.EOS), func(r *completion.Request) { r.IgnoreEOS, r.MaxTokens = true, 5 }},
		{"special tokens shown", text("ab", enginetest.EOS, enginetest.BOS), func(r *completion.Request) { r.SkipSpecial, r.IgnoreEOS, r.MaxTokens = false, true, 5 }},
		{"log-probabilities", text("é!", enginetest.EOS), func(r *completion.Request) { r.Logprobs = 2 }},
		{"the prompt's log-probabilities, and an output", text("x", enginetest.EOS), func(r *completion.Request) { r.PromptLogprobs, r.Logprobs = 1, 1 }},
		{"the prompt's log-probabilities alone", nil, func(r *completion.Request) { r.PromptLogprobs, r.MaxTokens = 1, 0 }},
		{"nothing asked for", nil, func(r *completion.Request) { r.MaxTokens = 0 }},
	}
	var got strings.Builder
	for _, c := range traces {
		r := asked("é?")
		if c.change != nil {
			c.change(&r)
		}
		fmt.Fprintf(&got, "# %s\n%s\n", c.name, trace(t, c.output, r))
	}
	golden.File(t, "deltas.txt", got.String())
}

func text(s string, more ...int32) []int32 { return append(enginetest.Bytes(s), more...) }

// trace prints a request's deltas, a line each, and its usage.
func trace(t *testing.T, output []int32, r completion.Request) string {
	t.Helper()
	engine := enginetest.New()
	engine.Script = func(serve.Request) []int32 { return output }
	run, err := service(engine).Start(t.Context(), r)
	require.NoError(t, err)
	defer run.Close()
	var b strings.Builder
	for {
		d, err := run.Next()
		if err != nil {
			break
		}
		b.WriteString(describe(d))
	}
	u := run.Usage()
	fmt.Fprintf(&b, "usage: %d prompt, %d completion\n", u.Prompt, u.Completion)
	return b.String()
}

func describe(d completion.Delta) string {
	var b strings.Builder
	if d.PromptTokens != nil {
		fmt.Fprintf(&b, "prompt %s\n", describeTokens(d.PromptTokens))
	}
	fmt.Fprintf(&b, "%q %s", d.Text, describeTokens(d.Tokens))
	if d.Finish != "" {
		fmt.Fprintf(&b, " %s", d.Finish)
	}
	if d.StopString != "" {
		fmt.Fprintf(&b, " by %q", d.StopString)
	}
	if d.StopToken >= 0 {
		fmt.Fprintf(&b, " by token %d", d.StopToken)
	}
	return b.String() + "\n"
}

func describeTokens(tokens []completion.Token) string {
	parts := make([]string, len(tokens))
	for i, t := range tokens {
		parts[i] = fmt.Sprintf("%d@%d", t.ID, t.Offset)
		if t.Logprob != nil {
			parts[i] += fmt.Sprintf("(%v of %v)", t.Logprob.Logprob.Logprob, t.Logprob.Top)
		}
	}
	return "[" + strings.Join(parts, " ") + "]"
}
