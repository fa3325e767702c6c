package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/tandem-moe/tandem/model"
)

// Names of a checkpoint's files.
const (
	// SingleFile holds all tensors where there is no index.
	SingleFile = "model.safetensors"
	// IndexFile names the shards.
	IndexFile = "model.safetensors.index.json"
)

// Tensor is a tensor's bytes: row-major, little-endian, and not to be written.
// They are valid until the checkpoint is closed.
type Tensor struct {
	DType DType
	Shape []int
	Data  []byte
}

// Checkpoint is an open set of files. It is safe for concurrent use; only Close
// must wait for all others.
type Checkpoint struct {
	files   []*file
	tensors map[string]place
	names   []string // sorted
}

// file is a validated file in memory.
type file struct {
	name    string
	bytes   []byte
	header  *header
	release func() error
}

// place is where a tensor lies.
type place struct {
	file *file
	entry
}

// Open opens a folder in Hugging Face form: model.safetensors, or the shards
// that model.safetensors.index.json names. All headers are validated; no tensor
// is read before it is asked for. The files must not change while they are
// open: on most systems they are mapped, not read.
func Open(dir string) (*Checkpoint, error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	index, err := readIndex(at(IndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return OpenFile(at(SingleFile))
	}
	if err != nil {
		return nil, fmt.Errorf("open the checkpoint: %w", err)
	}
	ix, err := parseIndex(at(IndexFile), index)
	if err != nil {
		return nil, err
	}
	return openShards(ix, func(name string) (*file, error) { return mapFile(at(name)) })
}

// OpenFile opens one safetensors file.
func OpenFile(path string) (*Checkpoint, error) {
	f, err := mapFile(path)
	if err != nil {
		return nil, err
	}
	return gather([]*file{f}), nil
}

// OpenBytes opens a safetensors file that is in memory; name is for errors. The
// bytes must not change.
func OpenBytes(name string, data []byte) (*Checkpoint, error) {
	f, err := newFile(name, data, nil)
	if err != nil {
		return nil, err
	}
	return gather([]*file{f}), nil
}

// mapFile maps a file and validates its header.
func mapFile(path string) (*file, error) {
	data, release, err := mapBytes(path)
	if err != nil {
		return nil, fmt.Errorf("open the checkpoint: %w", err)
	}
	f, err := newFile(path, data, release)
	if err != nil {
		return nil, errors.Join(err, release())
	}
	return f, nil
}

func newFile(name string, data []byte, release func() error) (*file, error) {
	h, err := parseHeader(name, data, int64(len(data)))
	if err != nil {
		return nil, err
	}
	return &file{name: name, bytes: data, header: h, release: release}, nil
}

// openShards opens the files of an index and compares them with it.
func openShards(ix *index, open func(string) (*file, error)) (*Checkpoint, error) {
	var files []*file
	for _, name := range ix.files {
		f, err := open(name)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s names %s: %w", ix.file, name, err), closeAll(files))
		}
		files = append(files, f)
	}
	for i, name := range ix.files {
		if err := ix.compare(name, files[i]); err != nil {
			return nil, errors.Join(err, closeAll(files))
		}
	}
	return gather(files), nil
}

// gather makes one set of names of all files.
func gather(files []*file) *Checkpoint {
	c := &Checkpoint{files: files, tensors: map[string]place{}}
	for _, f := range files {
		for _, e := range f.header.entries {
			c.tensors[e.name] = place{f, e}
			c.names = append(c.names, e.name)
		}
	}
	slices.Sort(c.names)
	return c
}

// Close gives the files back. Tensors are invalid afterwards.
func (c *Checkpoint) Close() error { return closeAll(c.files) }

func closeAll(files []*file) error {
	var errs []error
	for _, f := range files {
		if f.release != nil {
			errs = append(errs, f.release())
			f.release = nil
		}
		f.bytes = nil
	}
	return errors.Join(errs...)
}

// Names lists all tensors, sorted. The caller must not change it.
func (c *Checkpoint) Names() []string { return c.names }

// Has says whether there is a tensor of that name.
func (c *Checkpoint) Has(name string) bool {
	_, ok := c.tensors[name]
	return ok
}

// Shapes returns every tensor's shape, by name.
func (c *Checkpoint) Shapes() map[string][]int {
	m := make(map[string][]int, len(c.tensors))
	for name, p := range c.tensors {
		m[name] = p.shape
	}
	return m
}

// Tensor returns a whole tensor, of any type.
func (c *Checkpoint) Tensor(name string) (Tensor, error) {
	p, ok := c.tensors[name]
	if !ok {
		return Tensor{}, fmt.Errorf("the checkpoint has no tensor %q", name)
	}
	return Tensor{DType: p.dtype, Shape: p.shape, Data: p.data()}, nil
}

// data is the tensor's bytes in its file.
func (p place) data() []byte {
	at := p.file.header.data
	return p.file.bytes[at+p.begin : at+p.end : at+p.end]
}

// offset is where the tensor starts in its file.
func (p place) offset() int64 { return p.file.header.data + p.begin }

// fail is an error about the tensor that names its file and offset.
func (p place) fail(format string, args ...any) error {
	return &FormatError{File: p.file.name, Tensor: p.name, Offset: p.offset(), Reason: fmt.Sprintf(format, args...)}
}

// Weight returns the weight that ref names, F32, F16 or BF16; another type, or
// another shape than the model has, is an error.
func (c *Checkpoint) Weight(ref model.Ref) (Tensor, error) {
	p, ok := c.tensors[ref.Name]
	if !ok {
		return Tensor{}, fmt.Errorf("the checkpoint has no tensor %q, of shape %v", ref.Name, ref.Whole)
	}
	if !p.dtype.Weight() {
		return Tensor{}, p.fail("has type %s; only F32, F16 and BF16 are implemented", p.dtype)
	}
	if !slices.Equal(p.shape, ref.Whole) {
		return Tensor{}, p.fail("has shape %v, and the model's is %v", p.shape, ref.Whole)
	}
	size := p.dtype.Size()
	from, to := ref.Offset*size, (ref.Offset+ref.Elements())*size
	if from < 0 || to > p.end-p.begin {
		return Tensor{}, p.fail("has %d bytes, and bytes %d to %d are asked for", p.end-p.begin, from, to)
	}
	return Tensor{DType: p.dtype, Shape: ref.Shape, Data: p.data()[from:to:to]}, nil
}
