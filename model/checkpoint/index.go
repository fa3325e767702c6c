package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
// nothing outside the folder is opened. What is told beside weight_map counts
// for nothing.
func parseIndex(file string, data []byte) (*index, error) {
	ix := &index{file: file, weights: map[string]string{}}
	if err := ix.object(json.NewDecoder(bytes.NewReader(data))); err != nil {
		return nil, err
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

// object reads {"weight_map": {…}, …}.
func (ix *index) object(d *json.Decoder) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return ix.fail("", 0, "the index is not a JSON object")
	}
	for d.More() {
		key, err := d.Token()
		var skip json.RawMessage
		if key == "weight_map" {
			err = ix.weightMap(d)
		} else if err == nil {
			err = d.Decode(&skip)
		}
		if e := (*FormatError)(nil); errors.As(err, &e) {
			return err
		}
		if err != nil {
			return ix.fail("", d.InputOffset(), "the index's JSON is broken: %v", err)
		}
	}
	if _, err := d.Token(); err != nil {
		return ix.fail("", d.InputOffset(), "the index's JSON does not end")
	}
	return nil
}

// weightMap reads {"tensor": "file", …}; a tensor given twice is an error.
func (ix *index) weightMap(d *json.Decoder) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return ix.fail("", d.InputOffset(), "weight_map is not a JSON object")
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		tensor, _ := key.(string)
		value, err := d.Token()
		if err != nil {
			return err
		}
		name, ok := value.(string)
		if !ok {
			return ix.fail(tensor, d.InputOffset(), "weight_map does not give the name of its file")
		}
		if _, twice := ix.weights[tensor]; twice {
			return ix.fail(tensor, d.InputOffset(), "weight_map has it twice")
		}
		if len(tensor) > maxName {
			return ix.fail("", d.InputOffset(), "a tensor's name has %d bytes, the limit is %d", len(tensor), maxName)
		}
		if len(ix.weights) == maxTensors {
			return ix.fail("", d.InputOffset(), "weight_map names more than %d tensors", maxTensors)
		}
		ix.weights[tensor] = name
	}
	_, err := d.Token()
	return err
}

func (ix *index) fail(tensor string, at int64, format string, args ...any) error {
	return &FormatError{File: ix.file, Tensor: tensor, Offset: at, Reason: fmt.Sprintf(format, args...)}
}

// plain says whether a name has no folder in it, on any system.
func plain(name string) bool {
	return name != "" && name != "." && name != ".." && filepath.IsLocal(name) && !strings.ContainsAny(name, `/\:`+"\x00")
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
	text, err := io.ReadAll(io.LimitReader(f, maxHeader+1))
	if err == nil && len(text) > maxHeader {
		err = fmt.Errorf("%s: is longer than %d bytes", path, maxHeader)
	}
	return text, err
}

// encodeIndex writes an index, as Hugging Face's code reads it.
func encodeIndex(weights map[string]string, total int64) ([]byte, error) {
	text, err := json.MarshalIndent(map[string]any{
		"metadata":   map[string]any{"total_size": total},
		"weight_map": weights,
	}, "", "  ")
	return append(text, '\n'), err
}
