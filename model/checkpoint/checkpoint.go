package checkpoint

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tandem-moe/tandem/model"
)

// Names of a checkpoint's files.
const (
	// SingleFile holds all tensors; where it is there, it is the checkpoint.
	SingleFile = "model.safetensors"
	// IndexFile names the shards.
	IndexFile = "model.safetensors.index.json"
)

// Tensor is a tensor's bytes: row-major, little-endian, and not to be written.
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
	absent  absent
}

// OpenFile opens one safetensors file.
func OpenFile(path string) (*Checkpoint, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	return gather([]*file{f}), nil
}

// OpenBytes opens a safetensors file that is in memory; name is for errors. The
// bytes must not change.
func OpenBytes(name string, data []byte) (*Checkpoint, error) {
	f, err := newFile(name, data)
	if err != nil {
		return nil, err
	}
	return gather([]*file{f}), nil
}

// gather makes one set of names of all files. Of a tensor that several files
// hold, the one of the last file counts, as in Hugging Face transformers
// (modeling_utils.py merges the files' tensors in the order of their names).
func gather(files []*file) *Checkpoint {
	c := &Checkpoint{files: files, tensors: map[string]place{}}
	for _, f := range files {
		for _, e := range f.header.entries {
			if _, twice := c.tensors[e.name]; !twice {
				c.names = append(c.names, e.name)
			}
			c.tensors[e.name] = place{f, e}
		}
	}
	slices.Sort(c.names)
	return c
}

// Close gives the files back. Nothing can be read afterwards.
func (c *Checkpoint) Close() error { return closeAll(c.files) }

func closeAll(files []*file) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.close())
	}
	return errors.Join(errs...)
}

// Names lists all tensors, sorted. The caller must not change it.
func (c *Checkpoint) Names() []string { return c.names }

// Bytes is the size of all tensors.
func (c *Checkpoint) Bytes() (total int64) {
	for _, p := range c.tensors {
		total += p.size()
	}
	return total
}

// Has says whether there is a tensor of that name.
func (c *Checkpoint) Has(name string) bool {
	_, ok := c.tensors[name]
	return ok
}

// File is the name of the file that holds a tensor, empty where none does.
func (c *Checkpoint) File(name string) string {
	if p, ok := c.tensors[name]; ok {
		return p.file.name
	}
	return ""
}

// Shapes returns every tensor's shape, by name.
func (c *Checkpoint) Shapes() map[string][]int {
	m := make(map[string][]int, len(c.tensors))
	for name, p := range c.tensors {
		m[name] = p.shape
	}
	return m
}

// Tensor reads a whole tensor, of any type.
func (c *Checkpoint) Tensor(name string) (Tensor, error) {
	p, ok := c.tensors[name]
	if !ok {
		return Tensor{}, c.missing(name)
	}
	data, err := p.bytes(0, p.size(), nil)
	return Tensor{DType: p.dtype, Shape: p.shape, Data: data}, err
}

// Weight reads the weight that ref names, F32, F16 or BF16; another type, or
// another shape than the model has, is an error.
func (c *Checkpoint) Weight(ref model.Ref) (Tensor, error) {
	w, err := c.find(ref)
	if err != nil {
		return Tensor{}, err
	}
	return w.read(nil)
}

// weight is where a weight lies: bytes from to to of a tensor.
type weight struct {
	place
	from, to int64
	ref      model.Ref
}

// find checks that ref's tensor is there and fits.
func (c *Checkpoint) find(ref model.Ref) (weight, error) {
	p, ok := c.tensors[ref.Name]
	if !ok {
		return weight{}, fmt.Errorf("%w, of shape %v", c.missing(ref.Name), ref.Whole)
	}
	if !p.dtype.Weight() {
		return weight{}, p.fail("has type %s; only F32, F16 and BF16 are implemented", p.dtype)
	}
	if !slices.Equal(p.shape, ref.Whole) {
		return weight{}, p.fail("has shape %v, and the model's is %v", p.shape, ref.Whole)
	}
	size := p.dtype.Size()
	w := weight{place: p, from: ref.Offset * size, to: (ref.Offset + ref.Elements()) * size, ref: ref}
	if w.from < 0 || w.to > p.size() || w.from > w.to {
		return weight{}, p.fail("has %d bytes, and bytes %d to %d are asked for", p.size(), w.from, w.to)
	}
	return w, nil
}

func (w weight) length() int64 { return w.to - w.from }

// read returns the weight, in buffer where it has to be read and fits.
func (w weight) read(buffer []byte) (Tensor, error) {
	data, err := w.bytes(w.from, w.to, buffer)
	return Tensor{DType: w.dtype, Shape: w.ref.Shape, Data: data}, err
}

// missing says that there is no tensor of a name, and what is known about it.
func (c *Checkpoint) missing(name string) error {
	return fmt.Errorf("the checkpoint has no tensor %q%s", name, c.absent.explain(name))
}
