package tokenizer

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/oracle"
)

// BenchmarkEncode prints MB/s of text that has not been seen before but for its
// words, for the oracle's tokenizers.
func BenchmarkEncode(b *testing.B) {
	for _, family := range []string{"gpt2", "llama3", "qwen", "mixtral"} {
		dir := filepath.Join(oracle.Dir(b), "tokenizers", family)
		t, err := Load(dir)
		require.NoError(b, err)
		text := benchText(b, dir)
		for name, input := range map[string]string{"text": text,
			"long word": strings.Repeat("日本", len(text)/12) + strings.Repeat("ab", len(text)/4)} {
			b.Run(family+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(input)))
				for b.Loop() {
					encoded(t, input, false)
				}
			})
		}
	}
}

// benchText is the text of the oracle's cases.
func benchText(b *testing.B, dir string) string {
	b.Helper()
	var text strings.Builder
	for _, c := range readCases(b, filepath.Join(dir, "cases.json")) {
		text.WriteString(c.Text)
		text.WriteByte('\n')
	}
	return strings.Repeat(text.String(), 4)
}

// BenchmarkPattern prints MB/s of splitting alone.
func BenchmarkPattern(b *testing.B) {
	dir := filepath.Join(oracle.Dir(b), "tokenizers", "gpt2")
	text := benchText(b, dir)
	for name, source := range knownPatterns {
		p, err := compilePattern(source)
		require.NoError(b, err)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				p.each(freely(), text, func(int, int) {})
			}
		})
	}
}

// BenchmarkLoad reads a tokenizer.json of 128,000 tokens.
func BenchmarkLoad(b *testing.B) {
	dir := filepath.Join(oracle.Dir(b), "tokenizers", "llama3")
	for b.Loop() {
		_, err := Load(dir)
		require.NoError(b, err)
	}
}

// BenchmarkDecode streams.
func BenchmarkDecode(b *testing.B) {
	for _, family := range []string{"llama3", "mixtral"} {
		dir := filepath.Join(oracle.Dir(b), "tokenizers", family)
		t, err := Load(dir)
		require.NoError(b, err)
		text := benchText(b, dir)
		ids := encoded(t, text, false)
		b.Run(family, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				s := t.NewStream(true)
				for _, id := range ids {
					s.Push(id)
				}
				s.Flush()
			}
		})
	}
}

// knownPatterns are those of published tokenizers.
var knownPatterns = map[string]string{
	"gpt2":   byteLevelSplit,
	"llama3": `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
	"o200k":  `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
	"go":     `[^\r\n\p{L}\p{N}\t]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|[\r\n]+\t*|\s+(?!\S)|\s+`,
}
