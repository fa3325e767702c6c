// Package hub owns how the name that a user gives of a model becomes a folder:
// a folder itself, a folder of Hugging Face's cache, or a repository's id that is
// in the cache. What cannot be served gets a sentence that says what to do. It
// reads names and the beginnings of files; it may not know networks, and
// downloads nothing.
package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/tandem-moe/tandem/model"
)

// Folder is a model's folder.
type Folder struct {
	Path string
	// Name is what the model is called: ORG/NAME of a snapshot in a cache, or the
	// folder's own name.
	Name string
}

// Find returns the folder of a model: name is a folder, a snapshot or a
// repository's folder in Hugging Face's cache, or the id of a repository that is
// in the cache. A folder wins over an id, as in transformers. getenv is
// os.Getenv: it tells where the cache is.
func Find(name string, getenv func(string) string) (Folder, error) {
	info, err := os.Stat(name)
	switch {
	case err == nil && info.IsDir():
		return find(name)
	case err == nil:
		return Folder{}, fileError(name)
	case !errors.Is(err, fs.ErrNotExist):
		return Folder{}, err
	}
	cache := Cache(getenv)
	if !id.MatchString(name) || cache == "" {
		return Folder{}, fmt.Errorf("%s: there is no such folder", name)
	}
	root := filepath.Join(cache, repositoryPrefix+strings.ReplaceAll(name, "/", separator))
	if _, err := os.Stat(root); err == nil {
		return snapshot(root)
	}
	return Folder{}, fmt.Errorf("%s: there is no such folder, and no such model in the local Hugging Face cache, %s: if it is a model's id, download it first (hf download %s)", name, cache, name)
}

// id is how a repository is called: NAME or ORG/NAME.
var id = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?$`)

// Names in a cache: models--ORG--NAME/{refs/main,snapshots/COMMIT}.
const (
	repositoryPrefix = "models--"
	separator        = "--"
	refs             = "refs"
	snapshots        = "snapshots"
	mainRef          = "main"
)

// Cache is the folder of Hugging Face's cache, as huggingface_hub's constants.py
// finds it; empty where there is no home either.
func Cache(getenv func(string) string) string {
	home := getenv("HOME")
	for _, c := range []struct{ variable, below string }{
		{"HF_HUB_CACHE", ""},
		{"HUGGINGFACE_HUB_CACHE", ""},
		{"HF_HOME", "hub"},
		{"XDG_CACHE_HOME", "huggingface/hub"},
		{"HOME", ".cache/huggingface/hub"},
	} {
		dir := getenv(c.variable)
		if rest, ok := strings.CutPrefix(dir, "~/"); ok && home != "" {
			dir = filepath.Join(home, rest)
		}
		if dir != "" {
			return filepath.Join(dir, filepath.FromSlash(c.below))
		}
	}
	return ""
}

// fileError says what to do where a model's name is a file's.
func fileError(path string) error {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".gguf":
		return fmt.Errorf("%s is a GGUF file, which is not read: use the folder of the model that it was made from, with config.json and .safetensors files", path)
	case ".safetensors", ".json":
		return fmt.Errorf("%s is one file of a model: give its folder, %s", path, filepath.Dir(path))
	}
	return fmt.Errorf("%s is a file: want a model's folder, with config.json and .safetensors files", path)
}

// find returns the model in a folder, which is one with config.json, or a repository
// of a cache.
func find(dir string) (Folder, error) {
	_, err := os.Lstat(filepath.Join(dir, model.ConfigFile))
	if errors.Is(err, fs.ErrNotExist) {
		return withoutConfig(dir)
	}
	if err != nil {
		return Folder{}, err
	}
	if _, err := os.Stat(filepath.Join(dir, model.ConfigFile)); errors.Is(err, fs.ErrNotExist) {
		return Folder{}, fmt.Errorf("%s: %s is a link to a file that is not there: the download is not complete, or the link was copied without its blobs", dir, model.ConfigFile)
	}
	if err := checkWeights(dir); err != nil {
		return Folder{}, err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Folder{}, err
	}
	return Folder{Path: dir, Name: nameOf(abs)}, nil
}

// nameOf is what the model in a folder is called.
func nameOf(abs string) string {
	above := filepath.Dir(abs)
	repository, ok := strings.CutPrefix(filepath.Base(filepath.Dir(above)), repositoryPrefix)
	if ok && filepath.Base(above) == snapshots {
		return strings.Replace(repository, separator, "/", 1)
	}
	return filepath.Base(abs)
}

// withoutConfig looks for a model in a folder that has no config.json: a repository of
// a cache has snapshots. Of any other folder it says what to name instead.
func withoutConfig(dir string) (Folder, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Folder{}, err
	}
	if len(entries) == 0 {
		return Folder{}, fmt.Errorf("%s is empty: want a model's folder, with %s and .safetensors files", dir, model.ConfigFile)
	}
	var repositories, below []string
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), repositoryPrefix)
		switch {
		case e.Name() == snapshots:
			return snapshot(dir)
		case ok:
			repositories = append(repositories, strings.Replace(name, separator, "/", 1))
		case strings.EqualFold(filepath.Ext(e.Name()), ".gguf"):
			return Folder{}, fileError(filepath.Join(dir, e.Name()))
		default:
			if _, err := os.Stat(filepath.Join(dir, e.Name(), model.ConfigFile)); err == nil {
				below = append(below, filepath.Join(dir, e.Name()))
			}
		}
	}
	switch {
	case len(repositories) > 0:
		return Folder{}, fmt.Errorf("%s is a Hugging Face cache: name one of its models: %s", dir,
			model.Some(repositories))
	case len(below) > 0:
		return Folder{}, fmt.Errorf("%s has no %s; did you mean %s?", dir, model.ConfigFile, model.Some(below))
	}
	return Folder{}, fmt.Errorf("%s has no %s: want a model's folder as Hugging Face has it, with %s and .safetensors files; is the download complete?",
		dir, model.ConfigFile, model.ConfigFile)
}

// snapshot looks at a repository's folder in a cache: the snapshot of refs/main, or
// the only one there is.
func snapshot(root string) (Folder, error) {
	text, err := os.ReadFile(filepath.Join(root, refs, mainRef))
	if commit := strings.TrimSpace(string(text)); err == nil && plain(commit) {
		dir := filepath.Join(root, snapshots, commit)
		if _, err := os.Stat(dir); err == nil {
			return find(dir)
		}
		return Folder{}, fmt.Errorf("%s: %s/%s names the snapshot %.80q, which is not there: the download is not complete",
			root, refs, mainRef, commit)
	}
	entries, err := os.ReadDir(filepath.Join(root, snapshots))
	if err != nil {
		return Folder{}, fmt.Errorf("%s: holds no snapshot: the download is not complete: %w", root, err)
	}
	var dirs []string
	for _, e := range entries {
		dirs = append(dirs, filepath.Join(root, snapshots, e.Name()))
	}
	switch len(dirs) {
	case 0:
		return Folder{}, fmt.Errorf("%s: holds no snapshot: the download is not complete", root)
	case 1:
		return find(dirs[0])
	}
	return Folder{}, fmt.Errorf("%s: holds %d snapshots and no %s/%s that says which: name one of %s", root, len(dirs),
		refs, mainRef, model.Some(dirs))
}

// plain says whether a reference is one name.
func plain(commit string) bool {
	return commit != "" && filepath.IsLocal(commit) && filepath.Base(commit) == commit && commit != "."
}

// checkWeights refuses a folder whose weights are all of a kind that is not read, and
// says what to do.
func checkWeights(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	other := ""
	for _, e := range entries {
		switch name := e.Name(); strings.ToLower(filepath.Ext(name)) {
		case ".safetensors":
			return nil
		case ".gguf":
			other = name
		case ".bin", ".pt", ".pth":
			if other == "" {
				other = name
			}
		}
	}
	if other == "" {
		return nil // whoever opens the weights says which files it looked for
	}
	return fmt.Errorf("%s has weights as %s, which is not read: it needs .safetensors files (in transformers: model.save_pretrained(DIR))", dir, other)
}
