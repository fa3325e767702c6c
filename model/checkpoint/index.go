package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// index is a model.safetensors.index.json.
type index struct {
	file    string
	weights map[string]string // tensor → file
	files   []string          // sorted, each once
}

// parseIndex reads an index. A file's name is a plain name beside the index:
// nothing outside the folder is opened.
func parseIndex(file string, data []byte) (*index, error) {
	ix := &index{file: file, weights: map[string]string{}}
	var top struct {
		Weights json.RawMessage `json:"weight_map"`
	}
	if err := json.Unmarshal(data, &top); err != nil {
		return nil, ix.fail("", "is not the JSON of an index: %v", err)
	}
	if err := ix.weightMap(top.Weights); err != nil {
		return nil, err
	}
	for tensor, name := range ix.weights {
		if !plain(name) {
			return nil, ix.fail(tensor, "the file %.80q is not a plain name in the index's folder", name)
		}
		if !slices.Contains(ix.files, name) {
			ix.files = append(ix.files, name)
		}
	}
	slices.Sort(ix.files)
	return ix, nil
}

// weightMap reads {"tensor": "file", …}; a tensor given twice is an error.
func (ix *index) weightMap(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return ix.fail("", "weight_map is missing or not a JSON object")
	}
	for d.More() {
		key, _ := d.Token()
		tensor, _ := key.(string)
		value, _ := d.Token()
		name, ok := value.(string)
		if !ok {
			return ix.fail(tensor, "weight_map does not give the name of its file")
		}
		if _, twice := ix.weights[tensor]; twice {
			return ix.fail(tensor, "weight_map has it twice")
		}
		ix.weights[tensor] = name
	}
	return nil
}

func (ix *index) fail(tensor, format string, args ...any) error {
	return &FormatError{File: ix.file, Tensor: tensor, Reason: fmt.Sprintf(format, args...)}
}

// plain says whether a name has no folder in it, on any system.
func plain(name string) bool {
	return name != "" && name != "." && name != ".." && filepath.IsLocal(name) && !strings.ContainsAny(name, `/\:`+"\x00")
}

// compare checks that the index and a shard tell the same tensors.
func (ix *index) compare(name string, f *file) error {
	in := map[string]bool{}
	for _, e := range f.header.entries {
		in[e.name] = true
		if ix.weights[e.name] != name {
			return place{f, e}.fail("%s puts it in %q", filepath.Base(ix.file), ix.weights[e.name])
		}
	}
	for tensor, at := range ix.weights {
		if at == name && !in[tensor] {
			return ix.fail(tensor, "is not in %s", f.name)
		}
	}
	return nil
}
