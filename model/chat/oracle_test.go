package chat

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/internal/oracle"
)

type oracleCases struct {
	Scenarios map[string]map[string]json.RawMessage `json:"scenarios"`
	Expected  map[string]struct {
		Out *string `json:"out"`
		Err *string `json:"err"`
	} `json:"expected"`
}

// TestOracle: each template renders each conversation as Jinja2 does, or refuses
// it where Jinja2 does.
func TestOracle(t *testing.T) {
	dir := filepath.Join(oracle.Dir(t), "templates")
	data, err := os.ReadFile(filepath.Join(dir, "cases.json"))
	require.NoError(t, err)
	var cases oracleCases
	require.NoError(t, json.Unmarshal(data, &cases))
	require.NotEmpty(t, cases.Expected)
	for name, want := range cases.Expected {
		t.Run(name, func(t *testing.T) {
			file, scenario, _ := strings.Cut(name, "|")
			source, err := os.ReadFile(filepath.Join(dir, file))
			require.NoError(t, err)
			template, err := readTemplate(string(source),
				[]Special{{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"pad_token", "<pad>"}, {"unk_token", "<unk>"}})
			require.NoError(t, err)
			template.strftime = func(time.Time, string) (string, error) { return "2026-11-23", nil }
			got, err := template.Render(t.Context(), scenarioInput(t, cases.Scenarios[scenario]))
			if want.Err != nil {
				require.Error(t, err, *want.Err)
				require.Contains(t, err.Error(), *want.Err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, *want.Out, got)
		})
	}
}

// scenarioInput makes an input of the variables of a scenario.
func scenarioInput(t *testing.T, vars map[string]json.RawMessage) Input {
	t.Helper()
	in := Input{Messages: vars["messages"], Tools: vars["tools"]}
	extra := map[string]json.RawMessage{}
	for name, v := range vars {
		if name != "messages" && name != "tools" {
			extra[name] = v
		}
	}
	var err error
	in.Extra, err = json.Marshal(extra)
	require.NoError(t, err)
	return in
}

// BenchmarkRender prints how long a conversation of 1,000 messages takes.
func BenchmarkRender(b *testing.B) {
	source, err := os.ReadFile(filepath.Join(oracle.Dir(b), "templates", "Qwen-Qwen3-0.6B.jinja"))
	require.NoError(b, err)
	template, err := readTemplate(string(source), nil)
	require.NoError(b, err)
	pair := `{"role": "user", "content": "` + strings.Repeat("question ",
		50) + `"}, {"role": "assistant", "content": "<think>x</think>` + strings.Repeat("answer ", 50) + `"}`
	messages := json.RawMessage("[" + strings.Repeat(pair+",", 499) + pair + "]")
	b.SetBytes(int64(len(messages)))
	for b.Loop() {
		_, err := template.Render(b.Context(), Input{Messages: messages, AddGenerationPrompt: true})
		require.NoError(b, err)
	}
}
