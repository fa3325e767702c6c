package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/oracle"
)

type oracleCase struct {
	Text string  `json:"text"`
	IDs  []int32 `json:"ids"`
}

func readCases(t testing.TB, path string) []oracleCase {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var cases []oracleCase
	require.NoError(t, json.Unmarshal(data, &cases))
	require.NotEmpty(t, cases)
	return cases
}

// TestOracle: the ids of every string are Hugging Face's, and give the text
// back.
func TestOracle(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(oracle.Dir(t), "tokenizers", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			tok, err := Load(dir)
			require.NoError(t, err)
			for _, c := range readCases(t, filepath.Join(dir, "cases.json")) {
				ids := encoded(tok, c.Text, false)
				if len(ids)+len(c.IDs) > 0 {
					require.Equal(t, c.IDs, ids, "%q", c.Text)
				}
				require.Equal(t, tok.normalizedText(c.Text), tok.Decode(ids, false))
				require.Equal(t, tok.Decode(ids, false), streamed(tok, ids, false))
			}
		})
	}
}

// normalizedText is what a text becomes where its tokenizer does not give it
// back byte for byte.
func (t *Tokenizer) normalizedText(text string) string {
	if string(t.file.Normalizer) == `{"type":"NFC"}` {
		return t.normalize(freely(), text)
	}
	return text
}
