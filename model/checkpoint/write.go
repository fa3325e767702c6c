package checkpoint

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// Named is a tensor to be written.
type Named struct {
	Name string
	Tensor
}

// Write writes one safetensors file: wide types first, then by name, as the
// format's own implementation does, so that every tensor is aligned. metadata
// may be nil; Hugging Face's code expects {"format": "pt"}.
func Write(w io.Writer, metadata map[string]string, tensors []Named) error {
	ordered, entries, err := layOut(tensors)
	if err != nil {
		return fmt.Errorf("write safetensors: %w", err)
	}
	head, err := encodeHeader(entries, metadata)
	if err != nil {
		return fmt.Errorf("write safetensors: %w", err)
	}
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("write safetensors: %w", err)
	}
	for _, t := range ordered {
		if _, err := w.Write(t.Data); err != nil {
			return fmt.Errorf("write safetensors: tensor %q: %w", t.Name, err)
		}
	}
	return nil
}

// layOut orders tensors and gives each its offsets.
func layOut(tensors []Named) ([]Named, []entry, error) {
	ordered := slices.Clone(tensors)
	slices.SortFunc(ordered, func(a, b Named) int {
		return cmp.Or(cmp.Compare(bits[b.DType], bits[a.DType]), cmp.Compare(a.Name, b.Name))
	})
	seen := map[string]bool{metadataKey: true}
	entries := make([]entry, 0, len(ordered))
	var at int64
	for _, t := range ordered {
		if seen[t.Name] {
			return nil, nil, fmt.Errorf("the name %q is taken", t.Name)
		}
		seen[t.Name] = true
		if err := t.check(); err != nil {
			return nil, nil, err
		}
		end := at + int64(len(t.Data))
		entries = append(entries, entry{name: t.Name, dtype: t.DType, shape: t.Shape, begin: at, end: end})
		at = end
	}
	return ordered, entries, nil
}

// check compares a tensor's bytes with its type and shape.
func (t Named) check() error {
	shape := make([]int64, len(t.Shape))
	for i, n := range t.Shape {
		shape[i] = int64(n)
	}
	width, known := bits[t.DType]
	total, ok := product(shape, width)
	if !known || !ok || int64(len(t.Data)) != (total+7)/8 {
		return fmt.Errorf("tensor %q: %d bytes are not %s of shape %v", t.Name, len(t.Data), t.DType, t.Shape)
	}
	return nil
}

// WriteDir writes a checkpoint into a folder, as model.safetensors or, where
// the tensors exceed maxShard bytes, as numbered shards with an index, filled in
// the order given. A tensor larger than maxShard has a shard to itself; 0 means
// one file. Files are complete when they appear under their names, the index
// last.
func WriteDir(dir string, metadata map[string]string, tensors []Named, maxShard int64) error {
	shards := split(tensors, maxShard)
	if len(shards) == 1 {
		return writeFile(filepath.Join(dir, SingleFile), func(w io.Writer) error { return Write(w, metadata, tensors) })
	}
	var total int64
	weights := map[string]string{}
	for i, shard := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		for _, t := range shard {
			if _, twice := weights[t.Name]; twice {
				return fmt.Errorf("write safetensors: the name %q is taken", t.Name)
			}
			weights[t.Name] = name
			total += int64(len(t.Data))
		}
		if err := writeFile(filepath.Join(dir, name),
			func(w io.Writer) error { return Write(w, metadata, shard) }); err != nil {
			return err
		}
	}
	return writeIndex(filepath.Join(dir, IndexFile), weights, total)
}

func writeIndex(path string, weights map[string]string, total int64) error {
	return writeFile(path, func(w io.Writer) error {
		text, err := encodeIndex(weights, total)
		if err == nil {
			_, err = w.Write(text)
		}
		return err
	})
}

// split cuts a list into shards.
func split(tensors []Named, maxShard int64) [][]Named {
	if maxShard <= 0 {
		return [][]Named{tensors}
	}
	var shards [][]Named
	start, size := 0, int64(0)
	for i, t := range tensors {
		if n := int64(len(t.Data)); i > start && size+n > maxShard {
			shards = append(shards, tensors[start:i])
			start, size = i, 0
		}
		size += int64(len(t.Data))
	}
	return append(shards, tensors[start:])
}

// writeFile writes beside path, and renames once all is on disk.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.part")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	b := bufio.NewWriterSize(f, 1<<20)
	err = write(b)
	if err == nil {
		err = errors.Join(b.Flush(), f.Chmod(0o644), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}
