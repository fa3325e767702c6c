package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tandem-moe/tandem/model"
)

// Open opens a folder in Hugging Face form. The tensors are those in the files;
// an index only says which files, and need not tell what they hold:
//
//   - model.safetensors, where it is there: an index beside it is left over from
//     other files;
//   - else the files that model.safetensors.index.json names, as far as they are
//     there: a node needs only those with tensors of its own, and finds out when
//     it loads;
//   - else all files that end in .safetensors, but Mistral's own format
//     (consolidated*.safetensors), which holds the same weights under other
//     names.
//
// All headers are validated; no tensor is read before it is asked for. The files
// must not change while they are open.
func Open(dir string) (*Checkpoint, error) {
	single := filepath.Join(dir, SingleFile)
	if _, err := os.Lstat(single); err == nil {
		if dangling(single) {
			return nil, fmt.Errorf("open the checkpoint: %s is a link to a file that is not there: the download is not complete", single)
		}
		return OpenFile(single)
	}
	index, err := openIndex(filepath.Join(dir, IndexFile))
	if err != nil {
		return nil, err
	}
	names, err := shards(dir, index)
	if err != nil {
		return nil, err
	}
	c, err := openAll(dir, names)
	if err != nil {
		return nil, err
	}
	c.absent = absent{index, names}
	return c, nil
}

// openIndex reads an index; nil where there is none.
func openIndex(path string) (*index, error) {
	text, err := readIndex(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the checkpoint: %w", err)
	}
	if IsPointer(text) {
		return nil, &FormatError{File: path, Reason: pointerReason}
	}
	return parseIndex(path, text)
}

// dangling says whether a path is a link to a file that is not there: a hub's cache
// has such links where a file was never downloaded, or deleted.
func dangling(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// maxFiles bounds how many files are open at once. (Published checkpoints have
// up to some 200.)
const maxFiles = 1 << 12

// shards lists the files of a folder that hold its checkpoint.
func shards(dir string, ix *index) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open the checkpoint: %w", err)
	}
	var all, indexed []string
	for _, e := range entries {
		name := e.Name()
		if e.Type()&fs.ModeSymlink != 0 && dangling(filepath.Join(dir, name)) {
			continue // as if it were not there
		}
		if ix != nil && ix.names(name) {
			indexed = append(indexed, name)
		}
		if strings.HasSuffix(name, ".safetensors") && !strings.HasPrefix(name, "consolidated") {
			all = append(all, name)
		}
	}
	if len(indexed) > 0 {
		all = indexed
	}
	switch {
	case len(all) > maxFiles:
		return nil, fmt.Errorf("open the checkpoint: %s holds %d files of weights, the limit is %d", dir, len(all), maxFiles)
	case len(all) > 0:
		return all, nil
	case ix != nil:
		return nil, fmt.Errorf("open the checkpoint: %s names %d files, %s the first, and none of them is there",
			ix.file, len(ix.files), ix.files[0])
	}
	return nil, fmt.Errorf("open the checkpoint: %s holds no %s, no %s and no other file that ends in .safetensors: %w",
		dir, SingleFile, IndexFile, fs.ErrNotExist)
}

// openAll opens files in the order of their names.
func openAll(dir string, names []string) (*Checkpoint, error) {
	var files []*file
	tensors := 0
	for _, name := range names {
		f, err := openFile(filepath.Join(dir, name))
		if err != nil {
			return nil, errors.Join(err, closeAll(files))
		}
		files = append(files, f)
		if tensors += len(f.header.entries); tensors > maxTensors {
			return nil, errors.Join(fmt.Errorf("open the checkpoint: %s: more than %d tensors", dir, maxTensors),
				closeAll(files))
		}
	}
	return gather(files), nil
}

// absent knows what an index says of tensors that are in no open file.
type absent struct {
	index *index // nil where there is none
	open  []string
}

// explain says why a tensor may be missing, after a comma, or nothing.
func (a absent) explain(name string) string {
	if a.index == nil {
		return ""
	}
	file, ok := a.index.weights[name]
	switch {
	case !ok:
		return fmt.Sprintf(", nor does %s name it", IndexFile)
	case slices.Contains(a.open, file):
		return fmt.Sprintf(": %s puts it in %s, which does not hold it", IndexFile, file)
	}
	return fmt.Sprintf(": %s puts it in %s, which is not in the folder", IndexFile, file)
}

// Absent lists the files that the index names and that are not there, sorted.
func (c *Checkpoint) Absent() []string {
	missing := map[string]bool{}
	if c.absent.index != nil {
		for _, f := range c.absent.index.files {
			if !slices.Contains(c.absent.open, f) {
				missing[f] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(missing))
}

// Explain says of tensors that are missing in which files the index puts them,
// in brackets with a space before, or nothing where it does not know.
func (c *Checkpoint) Explain(missing []string) string {
	files := map[string]bool{}
	for _, name := range missing {
		if c.absent.index == nil {
			continue
		}
		if f, ok := c.absent.index.weights[name]; ok && !slices.Contains(c.absent.open, f) {
			files[f] = true
		}
	}
	if len(files) == 0 {
		return ""
	}
	list := slices.Sorted(maps.Keys(files))
	return fmt.Sprintf(" (%s puts them in %s, which is not in the folder)", IndexFile, model.Some(list))
}
