package hub

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tree makes files by their paths below a folder. A path that ends in a slash is a
// folder, and a text "-> x" makes a link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		switch target, link := strings.CutPrefix(text, "-> "); {
		case strings.HasSuffix(name, "/"):
			require.NoError(t, os.MkdirAll(path, 0o700))
		case link:
			require.NoError(t, os.Symlink(target, path))
		default:
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		}
	}
	return dir
}

// noCache is an environment without any cache.
func noCache(string) string { return "" }

// cached is a repository in a cache, with snapshots that link to blobs.
var cached = map[string]string{
	"hub/models--org--a-b/refs/main":                      "c0ffee\n",
	"hub/models--org--a-b/snapshots/c0ffee/config.json":   "-> ../../blobs/1",
	"hub/models--org--a-b/snapshots/older/config.json":    "{}",
	"hub/models--org--a-b/blobs/1":                        "{}",
	"hub/models--one/snapshots/0/config.json":             "{}",
	"hub/models--org--two/snapshots/0/config.json":        "{}",
	"hub/models--org--two/snapshots/1/config.json":        "{}",
	"hub/models--org--gone/refs/main":                     "beef",
	"hub/models--org--gone/snapshots/":                    "",
	"hub/models--org--bad/refs/main":                      "../../x",
	"hub/models--org--bad/snapshots/":                     "",
	"hub/models--org--half/refs/main":                     "0",
	"hub/models--org--half/snapshots/0/config.json":       "-> ../../blobs/none",
	"hub/models--org--part/refs/main":                     "0",
	"hub/models--org--part/snapshots/0/model.safetensors": "",
}

func TestFind(t *testing.T) {
	dir := tree(t, cached)
	hub := filepath.Join(dir, "hub")
	env := func(name string) string { return map[string]string{"HF_HUB_CACHE": hub}[name] }
	current := filepath.Join(hub, "models--org--a-b", "snapshots", "c0ffee")
	for name, want := range map[string]Folder{
		current:                                {current, "org/a-b"},
		current + "/":                          {current + "/", "org/a-b"},
		filepath.Join(hub, "models--org--a-b"): {current, "org/a-b"},
		filepath.Join(hub, "models--org--a-b", "snapshots",
			"older"): {filepath.Join(hub, "models--org--a-b", "snapshots", "older"), "org/a-b"},
		"org/a-b": {current, "org/a-b"},
		"one":     {filepath.Join(hub, "models--one", "snapshots", "0"), "one"},
	} {
		got, err := Find(name, env)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	own := tree(t, map[string]string{"my-model/config.json": "{}", "my-model/model.safetensors": ""})
	got, err := Find(filepath.Join(own, "my-model"), noCache)
	require.NoError(t, err)
	require.Equal(t, "my-model", got.Name)
	t.Chdir(filepath.Join(own, "my-model"))
	got, err = Find(".", noCache)
	require.NoError(t, err)
	require.Equal(t, Folder{".", "my-model"}, got)
}

// TestAFolderWinsOverAnID, as in transformers.
func TestAFolderWinsOverAnID(t *testing.T) {
	dir := tree(t, cached)
	env := func(name string) string { return map[string]string{"HF_HUB_CACHE": filepath.Join(dir, "hub")}[name] }
	t.Chdir(tree(t, map[string]string{"org/a-b/config.json": "{}"}))
	got, err := Find("org/a-b", env)
	require.NoError(t, err)
	require.Equal(t, Folder{"org/a-b", "a-b"}, got)
}

// TestEachMistakeHasItsSentence, which says what to do.
func TestEachMistakeHasItsSentence(t *testing.T) {
	dir := tree(t, cached)
	hub := filepath.Join(dir, "hub")
	env := func(name string) string { return map[string]string{"HF_HUB_CACHE": hub}[name] }
	folders := tree(t, map[string]string{
		"empty/":                    "",
		"x.gguf":                    "GGUF",
		"gguf/x-Q4.gguf":            "GGUF",
		"model.safetensors":         "",
		"notes.txt":                 "",
		"none/tokenizer.json":       "{}",
		"above/mine/config.json":    "{}",
		"pickled/config.json":       "{}",
		"pickled/pytorch_model.bin": "",
		"converted/config.json":     "{}",
		"converted/model.Q8_0.gguf": "",
		"linked/config.json":        "-> ../nowhere",
	})
	at := func(name string) string { return filepath.Join(folders, name) }
	for name, want := range map[string]string{
		"org/none":              "no such model in the local Hugging Face cache, " + hub + ": if it is a model's id, download it first (hf download org/none)",
		"./org/none":            "./org/none: there is no such folder",
		"/a/b":                  "/a/b: there is no such folder",
		"":                      "there is no such folder",
		"../x":                  "there is no such folder",
		"a/b/c":                 "there is no such folder",
		hub:                     "is a Hugging Face cache: name one of its models: one, org/a-b, org/bad, org/gone, org/half, org/part, org/two",
		"org/two":               "holds 2 snapshots and no refs/main that says which",
		"org/gone":              `refs/main names the snapshot "beef", which is not there: the download is not complete`,
		"org/bad":               "holds no snapshot: the download is not complete",
		"org/half":              "config.json is a link to a file that is not there: the download is not complete",
		"org/part":              "has no config.json",
		at("empty"):             "empty is empty: want a model's folder",
		at("x.gguf"):            "x.gguf is a GGUF file, which is not read",
		at("gguf"):              "x-Q4.gguf is a GGUF file, which is not read",
		at("model.safetensors"): "is one file of a model: give its folder, " + folders,
		at("notes.txt"):         "is a file: want a model's folder",
		at("none"):              "none has no config.json: want a model's folder as Hugging Face has it",
		at("above"):             "did you mean " + at("above/mine") + "?",
		at("pickled"):           "has weights as pytorch_model.bin, which is not read",
		at("converted"):         "has weights as model.Q8_0.gguf, which is not read",
		at("linked"):            "is a link to a file that is not there",
	} {
		_, err := Find(name, env)
		require.ErrorContains(t, err, want, name)
	}
	_, err := Find("org/none", noCache)
	require.ErrorContains(t, err, "there is no such folder")
}

func TestCache(t *testing.T) {
	all := map[string]string{"HF_HUB_CACHE": "/a", "HUGGINGFACE_HUB_CACHE": "/b", "HF_HOME": "/c",
		"XDG_CACHE_HOME": "/d", "HOME": "/me"}
	env := func(name string) string { return all[name] }
	for _, c := range []struct{ variable, want string }{
		{"HF_HUB_CACHE", "/a"}, {"HUGGINGFACE_HUB_CACHE", "/b"}, {"HF_HOME", "/c/hub"},
		{"XDG_CACHE_HOME", "/d/huggingface/hub"}, {"HOME", "/me/.cache/huggingface/hub"}, {"", ""},
	} {
		require.Equal(t, c.want, filepath.ToSlash(Cache(env)))
		delete(all, c.variable)
	}
	all["HF_HOME"], all["HOME"] = "~/hf", "/me"
	require.Equal(t, "/me/hf/hub", filepath.ToSlash(Cache(env)))
}

// TestPointersAreNoFiles: Git leaves a small text in the place of a large file.
func TestPointersAreNoFiles(t *testing.T) {
	dir := tree(t, map[string]string{
		"tokenizer.json": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
		"config.json":    `{"a": 1}`,
		"large.json":     strings.Repeat("version https://git-lfs ", 1000),
		"sub/":           "",
	})
	_, err := fs.ReadFile(Files(dir), "tokenizer.json")
	require.ErrorContains(t, err, `tokenizer.json: this is a Git LFS pointer, the file has not been downloaded: run "git lfs pull" in `+dir)
	text, err := fs.ReadFile(Files(dir), "config.json")
	require.NoError(t, err)
	require.Equal(t, `{"a": 1}`, string(text))
	_, err = fs.ReadFile(Files(dir), "large.json")
	require.NoError(t, err)
	_, err = Files(dir).Open("sub")
	require.NoError(t, err)
	_, err = Files(dir).Open("none")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// FuzzRef: whatever refs/main says, the folder that is found is a snapshot of the
// repository.
func FuzzRef(f *testing.F) {
	dir := f.TempDir()
	root := filepath.Join(dir, "models--a--b")
	for _, sub := range []string{"refs", "snapshots/0", "snapshots/1", "other"} {
		require.NoError(f, os.MkdirAll(filepath.Join(root, sub), 0o700))
		require.NoError(f, os.WriteFile(filepath.Join(root, sub, "config.json"), []byte("{}"), 0o600))
	}
	for _, text := range []string{"0", "1\n", "../other", ".", "..", "", "/", "2", "0/../../other"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(root, "refs", "main"), []byte(text), 0o600))
		got, err := Find(root, noCache)
		if err == nil {
			require.Equal(t, filepath.Join(root, "snapshots"), filepath.Dir(got.Path))
			require.Equal(t, "a/b", got.Name)
		}
	})
}
