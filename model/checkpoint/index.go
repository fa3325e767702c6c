package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tandem-moe/tandem/internal/bounded"
	"github.com/tandem-moe/tandem/internal/strictjson"
)

// index is a model.safetensors.index.json.
type index struct {
	file    string
	weights map[string]string // tensor → file
	files   []string          // sorted, each once
}

// parseIndex reads an index. A file's name is a plain name beside the index:
// nothing outside the folder is opened. What is told beside weight_map counts
// for nothing.
func parseIndex(file string, data []byte) (*index, error) {
	ix := &index{file: file, weights: map[string]string{}}
	object, err := strictjson.Object(data, limits)
	if err != nil {
		return nil, refused(file, 0, "the index", err)
	}
	for m := range strictjson.Members(object) {
		if m.Name == "weight_map" {
			if err := ix.weightMap(m.Value, int64(bytes.IndexByte(data, '{')+m.At)); err != nil {
				return nil, err
			}
		}
	}
	files := map[string]bool{}
	for tensor, name := range ix.weights {
		if !plain(name) {
			return nil, ix.fail(tensor, 0, "the file %.80q is not a plain name in the index's folder", name)
		}
		files[name] = true
	}
	if len(files) == 0 {
		return nil, ix.fail("", 0, "weight_map is missing or names no tensor")
	}
	ix.files = slices.Sorted(maps.Keys(files))
	return ix, nil
}

// weightMap reads {"tensor": "file", …}, which begins at a byte.
func (ix *index) weightMap(raw []byte, at int64) error {
	if raw[0] != '{' {
		return ix.fail("", at, "weight_map is not a JSON object")
	}
	for m := range strictjson.Members(raw) {
		switch {
		case len(m.Name) > maxName:
			return ix.fail("", at+int64(m.At), "a tensor's name has %d bytes, the limit is %d", len(m.Name), maxName)
		case m.Value[0] != '"':
			return ix.fail(m.Name, at+int64(m.At), "weight_map does not give the name of its file")
		case len(ix.weights) == maxTensors:
			return ix.fail("", at+int64(m.At), "weight_map names more than %d tensors", maxTensors)
		}
		ix.weights[m.Name] = strictjson.Text(m.Value)
	}
	return nil
}

func (ix *index) fail(tensor string, at int64, format string, args ...any) error {
	return &FormatError{File: ix.file, Tensor: tensor, Offset: at, Reason: fmt.Sprintf(format, args...)}
}

// plain says whether a name has no folder in it, on any system.
func plain(name string) bool {
	return name != "" && name != "." && name != ".." && filepath.IsLocal(name) &&
		!strings.ContainsAny(name, `/\:`+"\x00")
}

// names says whether the index names a file.
func (ix *index) names(file string) bool {
	_, found := slices.BinarySearch(ix.files, file)
	return found
}

// readIndex reads an index's text, which is bounded like a header.
func readIndex(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	text, err := bounded.Read(f, maxHeader)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}

// encodeIndex writes an index, as Hugging Face's code reads it.
func encodeIndex(weights map[string]string, total int64) ([]byte, error) {
	text, err := json.MarshalIndent(map[string]any{
		"metadata":   map[string]any{"total_size": total},
		"weight_map": weights,
	}, "", "  ")
	return append(text, '\n'), err
}
