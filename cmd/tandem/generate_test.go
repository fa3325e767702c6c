package main

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// succeeds runs the program, and returns what it writes to standard output.
func succeeds(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	got := tandem(t, stdin, args...)
	require.Equal(t, 0, got.code, "tandem %q: %s", args, got.err)
	return got.out
}

// TestGenerate continues Go code as Hugging Face does, wherever the prompt comes
// from.
func TestGenerate(t *testing.T) {
	r := gopherReferences(t)[1]
	n := strconv.Itoa(len(r.Greedy))
	require.Equal(t, r.Text+"\n", succeeds(t, "", "generate", r.Prompt, "--temperature", "0", "--max-tokens", n, small))
	require.Equal(t, r.Text+"\n", succeeds(t, r.Prompt, "generate", "-", "--temperature", "0", "--max-tokens", n,
		small))
	before, _, found := strings.Cut(r.Text, "return")
	require.True(t, found)
	require.Equal(t, before+"\n", succeeds(t, r.Prompt, "generate", "-", "--temperature", "0", "--stop", "return",
		small))
}

// TestGenerateSamples: a seed tells the output, whatever computes it.
func TestGenerateSamples(t *testing.T) {
	sampled := func(seed string, more ...string) string {
		return succeeds(t, "", append([]string{"generate", "func", "--seed", seed, "--temperature", "1.2",
			"--max-tokens", "16", small}, more...)...)
	}
	one := sampled("1")
	require.Equal(t, one, sampled("1", "--threads", "1", "--isa", "portable"))
	require.NotEqual(t, one, sampled("2"))
	narrow := []string{"--wire", "int8", "--combine", "partial"}
	require.Equal(t, sampled("1", narrow...), sampled("1", append(narrow, "--threads", "1", "--isa", "portable")...))
}

// TestChat talks: what is said before is part of the prompt.
func TestChat(t *testing.T) {
	args := []string{"--temperature", "0", "--max-tokens", "12", small}
	first := succeeds(t, "", append([]string{"generate", "func main() {"}, args...)...)
	second := succeeds(t, "", append([]string{"generate",
		"func main() {\n" + strings.TrimSuffix(first, "\n") + "\nvar x"}, args...)...)
	require.Equal(t, first+second, succeeds(t, "func main() {\n\n  \nvar x\n", append([]string{"chat"}, args...)...))
	third := succeeds(t, "", append([]string{"generate", "package main\nvar x"}, args...)...)
	require.Equal(t, third, succeeds(t, "var x", append([]string{"chat", "--system", "package main"}, args...)...))
}

// TestTokenizeThereAndBack: text, ids, and the same text.
func TestTokenizeThereAndBack(t *testing.T) {
	const text = "func größe() {\n\treturn \"世界 🙂\" // <|endoftext|>\r\n}\n\n"
	for _, dir := range []string{"", filepath.Join("..", "..", "testdata", "models", "mixtral-linear")} {
		model := []string{"tokenize", "--model", dir}
		ids := succeeds(t, text, model...)
		require.Equal(t, text, succeeds(t, ids, append(model, "--decode")...))
		lines := "\"func\\n\"\n\"\"\n\"世\"\n"
		require.Equal(t, lines, succeeds(t, succeeds(t, lines, append(model, "--json")...),
			append(model, "--json", "--decode")...))
	}
}
