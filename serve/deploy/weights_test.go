package deploy_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/model/checkpoint"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// abc is a prompt for the model in testdata/tiny, and untiedIDs the greedy output of
// Hugging Face transformers 5.24 for it.
var (
	abc       = []int32{98, 99, 100}
	untiedIDs = []int32{112, 6, 228}
)

// tinyTensors returns the tensors of testdata/tiny.
func tinyTensors(t *testing.T) map[string]checkpoint.Tensor {
	t.Helper()
	c, err := checkpoint.Open(filepath.Join("testdata", "tiny"))
	require.NoError(t, err)
	defer c.Close()
	m := map[string]checkpoint.Tensor{}
	for _, name := range c.Names() {
		m[name], err = c.Tensor(name)
		require.NoError(t, err)
	}
	return m
}

// folder writes a model folder with changes to tiny's configuration.
func folder(t *testing.T, tensors map[string]checkpoint.Tensor, config map[string]any) string {
	t.Helper()
	dir := t.TempDir()
	var list []checkpoint.Named
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		list = append(list, checkpoint.Named{Name: name, Tensor: tensors[name]})
	}
	require.NoError(t, checkpoint.WriteDir(dir, nil, list, 0))
	configure(t, dir, config)
	return dir
}

// configure writes tiny's configuration with changes.
func configure(t *testing.T, dir string, change map[string]any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "tiny", "config.json"))
	require.NoError(t, err)
	c := map[string]any{}
	require.NoError(t, json.Unmarshal(text, &c))
	maps.Copy(c, change)
	text, err = json.Marshal(c)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600))
}

// vectorOf makes a tensor of n elements.
func vectorOf(n int) checkpoint.Tensor {
	return checkpoint.Tensor{DType: checkpoint.F32, Shape: []int{n}, Data: make([]byte, 4*n)}
}

// serveFolder starts a deployment of a model folder, and returns its log.
func serveFolder(t *testing.T, dir string) (*deploy.Local, string) {
	t.Helper()
	var log bytes.Buffer
	return start(t, dir, deploy.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}), log.String()
}

// ids returns the first output tokens after abc.
func ids(t *testing.T, l *deploy.Local) []int32 {
	t.Helper()
	r := small(len(untiedIDs))
	r.Prompt = abc
	a, err := ask(bounded(t), l.Engine, r)
	require.NoError(t, err)
	return a.tokens
}

// TestHeadOfItsOwnCounts: where the configuration ties the head to the embedding, and the
// checkpoint has a head with other values, the head is used, as in transformers 5, and a
// line is logged. Where the head has equal bits or is absent, the embedding is used
// without a line.
func TestHeadOfItsOwnCounts(t *testing.T) {
	const word = "tie_word_embeddings is true, and lm_head.weight differs"
	tied := map[string]any{"tie_word_embeddings": true}
	tensors := tinyTensors(t)
	l, log := serveFolder(t, folder(t, tensors, nil))
	require.Equal(t, untiedIDs, ids(t, l))
	require.NotContains(t, log, word)
	l, log = serveFolder(t, folder(t, tensors, tied))
	require.Equal(t, untiedIDs, ids(t, l))
	require.Equal(t, 1, strings.Count(log, word), log)

	tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
	l, log = serveFolder(t, folder(t, tensors, tied))
	same := ids(t, l)
	require.NotEqual(t, untiedIDs, same)
	require.NotContains(t, log, word)
	delete(tensors, "lm_head.weight")
	l, _ = serveFolder(t, folder(t, tensors, tied))
	require.Equal(t, same, ids(t, l))
}

// TestForeignTensorsAreRefused starts a folder with a bias, an expert and a layer that
// the configuration does not mention: one error names them all. Tensors that belong to no
// part of the model are logged in one line.
func TestForeignTensorsAreRefused(t *testing.T) {
	tensors := tinyTensors(t)
	tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = vectorOf(2)
	l, log := serveFolder(t, folder(t, tensors, nil))
	require.Equal(t, untiedIDs, ids(t, l))
	require.Empty(t, log)

	tensors["value_head.weight"], tensors["adapter.a"] = vectorOf(3), vectorOf(1)
	l, log = serveFolder(t, folder(t, tensors, nil))
	require.Equal(t, untiedIDs, ids(t, l))
	require.Equal(t, 1, strings.Count(log, "\n"), log)
	require.Contains(t, log, `count=2 tensors="adapter.a, value_head.weight"`)

	foreign := []string{
		"model.layers.0.mlp.experts.2.gate_proj.weight", "model.layers.0.mlp.shared_expert.gate_proj.weight",
		"model.layers.0.self_attn.q_proj.bias", "model.layers.2.input_layernorm.weight",
	}
	for _, name := range foreign {
		tensors[name] = vectorOf(8)
	}
	dir := folder(t, tensors, nil)
	m, err := deploy.OpenModel(dir)
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	_, err = deploy.StartLocal(t.Context(), m, deploy.Options{}, nil)
	for _, name := range foreign {
		require.ErrorContains(t, err, name+" (")
	}
	_, err = deploy.NewControl(m, deploy.Options{}, "test")
	require.ErrorContains(t, err, foreign[0])
	_, err = deploy.NewNode(m, deploy.NodeOptions{Role: "expert", Listen: "127.0.0.1:0"})
	require.ErrorContains(t, err, foreign[0])
	require.NotContains(t, err.Error(), foreign[2], "an expert node judges experts")
	_, err = deploy.NewNode(m, deploy.NodeOptions{Role: "attention", Listen: "127.0.0.1:0"})
	require.ErrorContains(t, err, foreign[2])
	require.NotContains(t, err.Error(), foreign[0])
}

// TestFileIsCutAfterOpen: loading a file that was truncated after opening fails with its
// name, and does not crash the process.
func TestFileIsCutAfterOpen(t *testing.T) {
	dir := folder(t, tinyTensors(t), nil)
	m, err := deploy.OpenModel(dir)
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	file := filepath.Join(dir, checkpoint.SingleFile)
	require.NoError(t, os.Truncate(file, 8192))
	_, err = deploy.StartLocal(t.Context(), m, deploy.Options{}, nil)
	require.ErrorContains(t, err, file)
	require.ErrorContains(t, err, "it has been cut short since it was opened")

	control, err := deploy.NewControl(m, deploy.Options{}, "test")
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorContains(t, control.Serve(bounded(t), listener), "the front end's weights: "+file)
}

// fingerprint returns the fingerprint of a model folder, served in one process.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	m, err := deploy.OpenModel(dir)
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	require.Empty(t, m.Fingerprint("f32"))
	l, err := deploy.StartLocal(t.Context(), m, deploy.Options{Experts: 2}, nil)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return m.Fingerprint("f32")
}

// TestFingerprintCoversAllWeights: a byte in the middle of any tensor and the
// configuration change the fingerprint; the division into files and the number of
// processes that load them do not.
func TestFingerprintCoversAllWeights(t *testing.T) {
	tensors := tinyTensors(t)
	base := fingerprint(t, folder(t, tensors, nil))
	require.Len(t, base, 32)
	sharded := t.TempDir()
	var list []checkpoint.Named
	for name, x := range tensors {
		list = append(list, checkpoint.Named{Name: name, Tensor: x})
	}
	require.NoError(t, checkpoint.WriteDir(sharded, nil, list, 3000))
	configure(t, sharded, nil)
	require.Equal(t, base, fingerprint(t, sharded))
	seen := map[string]bool{base: true}
	for name, x := range tensors {
		at := len(x.Data) / 2
		x.Data[at] ^= 1
		f := fingerprint(t, folder(t, tensors, nil))
		require.False(t, seen[f], name)
		seen[f] = true
		x.Data[at] ^= 1
	}
}

// damaged copies tiny's folder and changes a tensor's bytes.
func damaged(t *testing.T, name string, change func(data []byte)) string {
	t.Helper()
	tensors := tinyTensors(t)
	change(tensors[name].Data)
	return folder(t, tensors, nil)
}

// TestNodeWithOtherWeightsIsRefused: a node of either role with a tensor that differs
// only in its middle is refused, with the tensor's name and both digests.
func TestNodeWithOtherWeightsIsRefused(t *testing.T) {
	flip := func(data []byte) { data[len(data)/2] ^= 0x10 }
	zero := func(data []byte) { clear(data[len(data)/2:]) }
	for _, c := range []struct {
		role, tensor string
		change       func([]byte)
	}{
		{"attention", "model.layers.1.self_attn.k_proj.weight", flip},
		{"attention", "lm_head.weight", zero},
		{"expert", "model.layers.1.mlp.experts.1.up_proj.weight", flip},
		{"expert", "model.layers.0.mlp.experts.0.down_proj.weight", zero},
	} {
		t.Run(c.tensor, func(t *testing.T) {
			cl := startCluster(t, folder(t, tinyTensors(t), nil), 1, 1)
			cl.model = damaged(t, c.tensor, c.change)
			p := cl.node(nodeSpec{Role: c.role})
			p.ends(t)
			require.Regexp(t, `tensor `+c.tensor+` differs: its digest is [0-9a-f]{16} at the front end and [0-9a-f]{16} at `+c.role+`-0`, numbered(p.log.String()))
		})
	}
}

// TestNodesNeedTheirPartAlone: each node needs only config.json and the files with its
// tensors, the front end no files with experts. A node's weights that the front end does
// not have are compared with those of the first node of the same place.
func TestNodesNeedTheirPartAlone(t *testing.T) {
	parts := map[string]map[string]checkpoint.Tensor{"attention": {}, "0": {}, "1": {}}
	for name, x := range tinyTensors(t) {
		part := "attention"
		for _, e := range []string{"0", "1"} {
			if strings.Contains(name, ".experts."+e+".") {
				part = e
			}
		}
		parts[part][name] = x
	}
	c := startCluster(t, folder(t, parts["attention"], nil), 2, 1)
	c.node(nodeSpec{Role: "attention"})
	var last *process
	for _, e := range []string{"0", "1"} {
		c.model = folder(t, parts[e], nil)
		last = c.node(nodeSpec{Role: "expert"})
		require.Eventually(t, func() bool { return strings.Contains(last.log.String(), "ready") }, 20*time.Second, 10*time.Millisecond, "%s", last.log)
	}
	c.ready(1, 30*time.Second)
	r := small(len(untiedIDs))
	r.Prompt = abc
	a, err := ask(bounded(t), c.control.Engine, r)
	require.NoError(t, err)
	require.Equal(t, untiedIDs, a.tokens)
	require.Equal(t, fingerprint(t, folder(t, tinyTensors(t), nil)), c.opened.Fingerprint("f32"))

	require.NoError(t, last.Process.Kill())
	<-last.done
	require.Eventually(t, func() bool { return c.control.Missing() != "" }, 20*time.Second, 10*time.Millisecond)
	const name = "model.layers.0.mlp.experts.1.gate_proj.weight"
	parts["1"][name].Data[9] ^= 1
	c.model = folder(t, parts["1"], nil)
	p := c.node(nodeSpec{Role: "expert"})
	p.ends(t)
	require.Regexp(t, "tensor "+name+" differs: its digest is [0-9a-f]{16} at expert-1 and [0-9a-f]{16} at expert-2", numbered(p.log.String()))

	c.model = folder(t, parts["0"], nil)
	p = c.node(nodeSpec{Role: "expert"})
	p.ends(t)
	require.Contains(t, p.log.String(), "the checkpoint lacks 6 tensors that the configuration asks for: model.layers.0.mlp.experts.1.gate_proj.weight")
}

// shardedTiny writes tiny as two files, with an index that change makes wrong.
func shardedTiny(t *testing.T, extra map[string]checkpoint.Tensor, change func(weights map[string]string)) string {
	t.Helper()
	dir := t.TempDir()
	var second []checkpoint.Named
	var first []checkpoint.Named
	weights := map[string]string{}
	const one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
	for name, x := range tinyTensors(t) {
		if strings.HasPrefix(name, "model.layers.1.") {
			second = append(second, checkpoint.Named{Name: name, Tensor: x})
			weights[name] = two
		} else {
			first = append(first, checkpoint.Named{Name: name, Tensor: x})
			weights[name] = one
		}
	}
	for name, x := range extra {
		first = append(first, checkpoint.Named{Name: name, Tensor: x})
	}
	change(weights)
	for name, list := range map[string][]checkpoint.Named{one: first, two: second} {
		var b bytes.Buffer
		require.NoError(t, checkpoint.Write(&b, nil, list))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o600))
	}
	text, err := json.Marshal(map[string]any{"weight_map": weights})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, checkpoint.IndexFile), text, 0o600))
	configure(t, dir, nil)
	return dir
}

// TestIndexThatIsWrongServes: a model with a wrong index gives the same tokens as with
// the same tensors in one file. Of a tensor in two shards the later one is used, as in
// transformers, and an index of other files is ignored.
func TestIndexThatIsWrongServes(t *testing.T) {
	const router, table = "model.layers.1.mlp.gate.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"
	wrong := tinyTensors(t)[router]
	wrong.Data = make([]byte, len(wrong.Data))
	stale := folder(t, tinyTensors(t), nil)
	require.NoError(t, os.WriteFile(filepath.Join(stale, checkpoint.IndexFile), []byte(`{"weight_map":{"a":"model-00001-of-00013.safetensors"}}`), 0o600))
	for name, dir := range map[string]string{
		"tensor-not-in-index":        shardedTiny(t, map[string]checkpoint.Tensor{table: vectorOf(2)}, func(map[string]string) {}),
		"tensor-in-two-shards":       shardedTiny(t, map[string]checkpoint.Tensor{router: wrong}, func(map[string]string) {}),
		"index-names-missing-tensor": shardedTiny(t, nil, func(w map[string]string) { w[table] = "model-00002-of-00002.safetensors" }),
		"index-names-missing-file":   shardedTiny(t, nil, func(w map[string]string) { w[table] = "model-00003-of-00003.safetensors" }),
		"stale-index":                stale,
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := serveFolder(t, dir)
			require.Equal(t, untiedIDs, ids(t, l))
		})
	}
	missing := shardedTiny(t, nil, func(map[string]string) {})
	require.NoError(t, os.Remove(filepath.Join(missing, "model-00002-of-00002.safetensors")))
	m, err := deploy.OpenModel(missing)
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	_, err = deploy.StartLocal(t.Context(), m, deploy.Options{}, nil)
	require.ErrorContains(t, err, "(model.safetensors.index.json puts them in model-00002-of-00002.safetensors, which is not in the folder)")
}

// TestYarnServesItsLength: Qwen3's own YaRN settings give 131,072 positions.
func TestYarnServesItsLength(t *testing.T) {
	dir := folder(t, tinyTensors(t), map[string]any{
		"max_position_embeddings": 40960,
		"rope_scaling":            map[string]any{"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32768},
	})
	require.Equal(t, 131072, start(t, dir, deploy.Options{}).Engine.Limits().MaxModelLen)
	m, err := deploy.OpenModel(dir)
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	_, err = deploy.StartLocal(t.Context(), m, deploy.Options{MaxModelLen: 131073}, nil)
	require.ErrorContains(t, err, "max-model-len is 131073, want 1 to 131072")
}

// TestSnapshotIsNamedAfterItsRepository: a snapshot whose files are links to blobs gets
// the name of its repository.
func TestSnapshotIsNamedAfterItsRepository(t *testing.T) {
	cache := t.TempDir()
	snapshot := filepath.Join(cache, "models--some--tiny", "snapshots", "c0ffee")
	require.NoError(t, os.MkdirAll(snapshot, 0o700))
	blobs := folder(t, tinyTensors(t), nil)
	for _, name := range []string{"config.json", checkpoint.SingleFile} {
		require.NoError(t, os.Symlink(filepath.Join(blobs, name), filepath.Join(snapshot, name)))
	}
	t.Setenv("HF_HUB_CACHE", cache)
	for _, name := range []string{"some/tiny", snapshot, filepath.Join(cache, "models--some--tiny")} {
		m, err := deploy.OpenModel(name)
		require.NoError(t, err)
		require.Equal(t, "some/tiny", m.Name)
		require.True(t, m.Checkpoint.Has("lm_head.weight"))
		require.NoError(t, m.Checkpoint.Close())
	}
}
