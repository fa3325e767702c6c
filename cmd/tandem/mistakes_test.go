package main

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
)

// fixture is a copy of a model's folder, with changes to its files: nil removes
// one.
func fixture(t *testing.T, changes map[string]func(string) string) string {
	t.Helper()
	from := filepath.Join("..", "..", "testdata", "models", "qwen3_moe-window")
	dir := t.TempDir()
	for _, name := range []string{"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} {
		change, changed := changes[name]
		if changed && change == nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join(from, name))
		require.NoError(t, err)
		if changed {
			text = []byte(change(string(text)))
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	return dir
}

// replaced is a change that replaces a text that is there.
func replaced(t *testing.T, before, after string) func(string) string {
	return func(s string) string {
		require.Contains(t, s, before)
		return strings.Replace(s, before, after, 1)
	}
}

// mistake is a command line that is refused, and what the refusal says.
type mistake struct {
	args string
	code int
	says []string
}

// Exit codes: of a command line that makes no sense, and of one that fails.
const (
	usage  = 2
	failed = 1
)

// refuses runs a mistake.
func (m mistake) refuses(t *testing.T, variables ...string) {
	t.Helper()
	args := strings.Fields(m.args)
	for i, a := range args {
		if a == "NOTHING" {
			args[i] = ""
		}
	}
	got := tandemWith(t, variables, "", args...)
	require.Equal(t, m.code, got.code, "%s: %s", m.args, got.err)
	for _, s := range m.says {
		require.Contains(t, got.err, s, m.args)
	}
	lines := strings.Split(strings.TrimSpace(got.err), "\n")
	require.Regexp(t, `(?m)^tandem: `, got.err, m.args)
	require.LessOrEqual(t, len(lines), 5, "%s: a refusal, and not a page: %s", m.args, got.err)
	for _, bad := range []string{"panic", "goroutine", ".go:", "%!"} {
		require.NotContains(t, got.err, bad, m.args)
	}
	require.Empty(t, got.out, m.args)
}

// TestMistakes are those that users make. Each refusal names what is wrong, and
// both values where two disagree.
func TestMistakes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	port := taken.Addr().String()
	serve := "serve --listen 127.0.0.1:0 "
	node := "node --role expert --join 127.0.0.1:1 "
	for _, m := range []mistake{
		{"nonsense", usage, []string{"nonsense", "tandem --help"}},
		{"serve --nonsense", usage, []string{"--nonsense", "tandem serve --help"}},
		{"serve one two", usage, []string{"two"}},
		{"node --role expert", usage, []string{"--join", "tandem node --help"}},
		{"node --join 127.0.0.1:1", usage, []string{"--role"}},
		{"node --role router --join 127.0.0.1:1", usage, []string{"--role", `"attention","expert"`, "router"}},
		{"generate", usage, []string{"<prompt>"}},
		{"bench kernel --threads x", usage, []string{"--threads", `"x"`, "tandem bench kernel --help"}},
		{"tokenize --special --decode", usage, []string{"--special", "--decode"}},

		{"serve --attention 0", usage, []string{"--attention", `"0"`, "1 to 2147483647"}},
		{"serve --experts=-1", usage, []string{"--experts", `"-1"`, "1 to 2147483647"}},
		{"serve --max-num-seqs many", usage, []string{"--max-num-seqs", `"many"`}},
		{"serve --threads 99999999999999999999", usage, []string{"--threads", "99999999999999999999", "2147483647"}},
		{"serve --kv-memory 2Q", usage, []string{"--kv-memory", `"2Q"`, "512MiB"}},
		{"serve --kv-memory 0", usage, []string{"--kv-memory", `"0"`}},
		{"serve --wire fp8", usage, []string{"--wire", `"fp8"`, `"bf16"`}},
		{"node --role expert --join 127.0.0.1:1 --combine sum", usage, []string{"--combine", `"sum"`, `"partial"`}},
		{"serve --isa neon9", usage, []string{"--isa", "neon9", "avx2"}},
		{"serve --grace 5", usage, []string{"--grace", `"5"`, "unit"}},
		{"serve --grace=-5s", usage, []string{"--grace", `"-5s"`, "0 or more"}},
		{"serve --request-timeout=-1ns", usage, []string{"--request-timeout", `"-1ns"`, "0 or more"}},
		{"serve --linger=-1ms", usage, []string{"--linger", `"-1ms"`, "0 or more"}},
		{"node --role expert --join 127.0.0.1:1 --grace=-1h", usage, []string{"--grace", `"-1h"`, "0 or more"}},
		{"bench m2n --time=-2s", usage, []string{"--time", `"-2s"`, "0 or more"}},
		{"serve --api-key NOTHING", usage, []string{"--api-key", "empty"}},
		{"serve --api-key=a --api-key=\u00a0", usage, []string{"--api-key", "empty"}},
		{"serve --api-key=a,,b", usage, []string{"--api-key", "empty"}},
		{"serve --log-level loud", usage, []string{"--log-level", "loud"}},

		{serve + "--attention 5000", failed, []string{"attention is 5000", "1024"}},
		{serve + "--micro-batches 65", failed, []string{"micro-batches is 65", "64"}},
		{serve + "--page-tokens 17", failed, []string{"page-tokens is 17", "16"}},
		{serve + "--max-model-len 2049", failed, []string{"max-model-len is 2049", "2048"}},
		{serve + "--kv-memory 1KiB", failed, []string{"kv-memory is 1024 bytes", "16 tokens", "49152"}},
		{serve + "--kv-memory 64KiB --attention 2", failed,
			[]string{"kv-memory is 65536 bytes", "2 attention nodes", "49152"}},

		{"serv", usage, []string{`did you mean "serve"`}},
		{"serve --prot 9000", usage, []string{`did you mean "--port"`}},
		{"help nonsense", usage, []string{"nonsense", "tandem --help"}},
		{"help serv", usage, []string{`did you mean "serve"`}},
		{"serve --listen 127.0.0.1:0 --port 9000", usage, []string{"--listen and --port"}},
		{"serve --host 127.0.0.1 --listen 127.0.0.1:0", usage, []string{"--listen and --host"}},
		{"serve --port 99999", usage, []string{"--port", "99999"}},
		{"serve --port=-1", usage, []string{"--port", "-1"}},
		{"serve one --model two", usage, []string{"named twice", `"one"`, `"two"`}},

		{"serve --listen nonsense", failed, []string{"--listen", "nonsense", "port"}},
		{"serve --listen 127.0.0.1:99999", failed, []string{"--listen", "99999"}},
		{"serve --listen " + port, failed, []string{"--listen", port, "address already in use"}},
		{serve + "--control " + port, failed, []string{"--control", port, "address already in use"}},
		{serve + "--control 0.0.0.0:0", usage, []string{"--control 0.0.0.0:0", "--tls DIR", "--insecure"}},
		{serve + "--control :0", usage, []string{"--control :0", "--tls DIR", "--insecure"}},
		{serve + "--control example.org:0", usage, []string{"--tls DIR", "--insecure"}},
		{serve + "--insecure", usage, []string{"--insecure", "--control"}},
		{serve + "--control 127.0.0.1:0 --insecure --tls x", usage, []string{"--insecure", "--tls"}},
		{serve + "--control 127.0.0.1:0 --threads 2", usage, []string{"--threads", "--control", "tandem node"}},
		{serve + "--control 127.0.0.1:0 --attention 2", usage, []string{"--attention", "--control", "tandem node"}},

		{"node --role expert --join nonsense", failed, []string{"--join", "nonsense", "port"}},
		{node + "--transport ucx+tcp", failed, []string{"ucx+tcp", "tag ucx"}},
		{node + "--listen nonsense", failed, []string{"peers", "nonsense", "port"}},
		{node + "--listen " + port, failed, []string{"peers", port, "address already in use"}},
		{node + "--listen 0.0.0.0:0", failed, []string{"0.0.0.0:0", "--advertise"}},
		{node + "--listen 127.0.0.1:http --model /nothing", failed, []string{"--listen", `port "http"`}},
		{node + "--listen 10.0.0.3:0 --advertise 0.0.0.0 --model /nothing", failed,
			[]string{"--advertise", "0.0.0.0", "every address"}},
		{node + "--advertise 10.0.0.3:port --model /nothing", failed, []string{"--advertise", `port "port"`}},
		{node + "--metrics " + port, failed, []string{"--metrics", port, "address already in use"}},

		{"generate x --max-tokens=-1", failed, []string{"MaxTokens", "-1"}},
		{"generate x --temperature=-1", failed, []string{"Temperature", "-1"}},
		{"generate x --top-p=2", failed, []string{"TopP", "2"}},
		{"generate NOTHING", failed, []string{"Prompt", "no tokens"}},
	} {
		m.refuses(t)
	}
}

// TestEmptyKeys: a variable that was to hold a key and is empty does not open the
// API to everybody.
func TestEmptyKeys(t *testing.T) {
	for _, value := range []string{"", " ", "\n", ",", "a,"} {
		mistake{"serve --listen 127.0.0.1:0", usage, []string{"TANDEM_API_KEY", "a key is empty"}}.refuses(t,
			"TANDEM_API_KEY="+value)
	}
}

// TestKeysAreTrimmed: a newline after a key is its file's. Who gives keys on the
// command line does not want those of the environment.
func TestKeysAreTrimmed(t *testing.T) {
	t.Setenv("TANDEM_API_KEY", "of the environment")
	for _, args := range [][]string{{"--api-key", " a\n", "--api-key=b,\tc"}, {"--api-key", "a,b,c"}} {
		var c cli
		p, err := newParser(&c)
		require.NoError(t, err)
		_, err = p.Parse(append([]string{"serve"}, args...))
		require.NoError(t, err)
		require.Equal(t, apiKeys{"a", "b", "c"}, c.Serve.APIKey)
	}
}

// TestLoopbackAddressForAnotherHost: a node that its peers could never reach ends, and
// says what to do. 192.0.2.1 is nobody's, and nothing is sent there.
func TestLoopbackAddressForAnotherHost(t *testing.T) {
	route, err := net.Dial("udp", "192.0.2.1:7000")
	if err != nil {
		t.Skip("this machine has no way to other networks: ", err)
	}
	route.Close()
	here, _, err := net.SplitHostPort(route.LocalAddr().String())
	require.NoError(t, err)
	mistake{"node --role expert --join 192.0.2.1:7000", failed,
		[]string{"127.0.0.1", "front end at 192.0.2.1", "--listen " + here + ":0", "--advertise"}}.refuses(t)
}

// TestModelMistakes opens folders that hold no model, or a broken one.
func TestModelMistakes(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "nothing")
	plain := fixture(t, nil)
	for _, c := range []struct {
		dir  string
		says []string
	}{
		{missing, []string{missing, "no such folder"}},
		{filepath.Join(plain, "config.json"), []string{"config.json", "is one file of a model: give its folder"}},
		{t.TempDir(), []string{"is empty: want a model's folder"}},
		{fixture(t, map[string]func(string) string{"config.json": func(s string) string { return s[:len(s)/2] }}),
			[]string{"config.json"}},
		{fixture(t, map[string]func(string) string{"config.json": replaced(t, `"qwen3_moe"`, `"qwen9_moe"`)}),
			[]string{"model_type", "qwen9_moe", "qwen3_moe"}},
		{fixture(t, map[string]func(string) string{"config.json": replaced(t, `"silu"`, `"gelu"`)}),
			[]string{"hidden_act", "gelu", "silu"}},
		{fixture(t, map[string]func(string) string{"config.json": replaced(t, `"num_experts_per_tok": `,
			`"num_experts_per_tok": 9`)}), []string{"num_experts_per_tok"}},
		{fixture(t, map[string]func(string) string{"config.json": replaced(t, `"hidden_size": `, `"hidden_size": 1`)}),
			[]string{"model.embed_tokens.weight", "shape"}},
		{fixture(t, map[string]func(string) string{"model.safetensors": nil}), []string{"model.safetensors"}},
		{fixture(t, map[string]func(string) string{"model.safetensors": func(s string) string { return s[:len(s)-1] }}),
			[]string{"model.safetensors", "byte"}},
		{fixture(t, map[string]func(string) string{"tokenizer.json": nil}), []string{"tokenizer.json"}},
		{fixture(t, map[string]func(string) string{"tokenizer.json": func(string) string { return "{}" }}),
			[]string{"tokenizer.json"}},
	} {
		mistake{"serve --listen 127.0.0.1:0 --model " + c.dir, failed, c.says}.refuses(t)
	}
	mistake{"chat --model " + plain, failed, []string{"chat template", "tandem generate"}}.refuses(t)
}

// TestMissingInstructionSet asks for one that the machine lacks, or is made to
// lack.
func TestMissingInstructionSet(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		mistake{"serve --listen 127.0.0.1:0 --isa avx2", failed,
			[]string{"avx2", "this machine has [portable]"}}.refuses(t)
		return
	}
	without := "GODEBUG=cpu.avx512f=off"
	if available := kernel.Available(); available[len(available)-1] != kernel.AVX512 {
		without = "GODEBUG="
	}
	for _, args := range []string{
		"serve --listen 127.0.0.1:0 ", "node --role attention --join 127.0.0.1:1 ", "generate x ",
	} {
		mistake{args + "--isa avx512", failed, []string{"instruction set avx512",
			"this machine has [portable"}}.refuses(t, without)
	}
}

// TestInsecureIsSaid: a front end may admit nodes of other hosts without TLS where
// that is asked for.
func TestInsecureIsSaid(t *testing.T) {
	front := start(t, "serve", "--control", "0.0.0.0:0", "--insecure", "--listen", "127.0.0.1:0")
	front.says(`admitting nodes.* tls=false`)
	front.stopped()
}

// TestNodeWithAnotherWire is refused by the front end, whose log has both values.
func TestNodeWithAnotherWire(t *testing.T) {
	control := freeAddr(t)
	front := start(t, "serve", "--control", control, "--listen", "127.0.0.1:0", "--wire", "bf16", "--combine",
		"partial")
	front.url()
	node := "node --role expert --join " + control
	mistake{node + " --wire int8", failed, []string{"the node differs from the cluster"}}.refuses(t)
	front.says("wire: the cluster has bf16, the node int8")
	mistake{node + " --wire bf16 --combine expert", failed, []string{"the node differs from the cluster"}}.refuses(t)
	front.says(`combine: the cluster has partial, the node expert`)
	front.stopped()
}

// TestNodeOfAnotherModel is refused by the front end, whose log has both values.
func TestNodeOfAnotherModel(t *testing.T) {
	control := freeAddr(t)
	front := start(t, "serve", "--control", control, "--listen", "127.0.0.1:0")
	front.url()
	mistake{"node --role expert --join " + control + " --model " + fixture(t, nil), failed,
		[]string{"the node differs from the cluster"}}.refuses(t)
	front.says("layers: the cluster has 6, the node")
	front.stopped()
}
