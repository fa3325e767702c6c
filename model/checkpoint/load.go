package checkpoint

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/tandem-moe/tandem/model"
)

// Job is a set of weights and what is to be done with them, such as packing
// them into one matrix.
type Job struct {
	Refs []model.Ref
	// Do gets the weights in the order of Refs. Their bytes are valid until it
	// returns.
	Do func([]Tensor) error
}

// Loaded are the digests of weights that were loaded, of exactly the bytes that
// were.
type Loaded map[loadedKey]Digest

type loadedKey struct {
	name   string
	offset int64
}

func keyOf(r model.Ref) loadedKey { return loadedKey{r.Name, r.Offset} }

// Digests are those of the given weights, each of which has been loaded.
func (l Loaded) Digests(refs []model.Ref) Digests {
	list := make(Digests, len(refs))
	for i, r := range refs {
		d, ok := l[keyOf(r)]
		if !ok {
			panic(fmt.Sprintf("checkpoint: %s at element %d was not loaded", r.Name, r.Offset))
		}
		list[i] = d
	}
	return list
}

// A load holds so many bytes beside what it makes of them: little, but two of the
// largest jobs, so that one is read while another is packed, unless these are more
// than there should be. (Of Mixtral 8x22B an expert's first two matrices, which are
// one job, have 400 MB.) A job that is larger than the room runs alone.
const leastRoom, mostRoom = 256 << 20, 1 << 30

// roomFor is how many bytes may be in flight.
func roomFor(tasks []task) int64 {
	largest := int64(0)
	for _, t := range tasks {
		largest = max(largest, t.bytes)
	}
	return min(max(leastRoom, 2*largest), mostRoom)
}

// Load does all jobs, up to workers at a time, starting them in the order of
// the files' bytes so that a disk reads forward, and returns the digests of all
// weights. All weights are found before the first job starts. progress, where it
// is not nil, is called after each job with the bytes done and the bytes of all
// jobs, one call at a time and rising. The first error, or ctx's end, stops what
// has not started.
func (c *Checkpoint) Load(ctx context.Context, jobs []Job, workers int, progress func(done, total int64)) (Loaded,
	error) {
	tasks, total, err := c.resolve(jobs)
	if err != nil {
		return nil, err
	}
	size := roomFor(tasks)
	l := loading{
		count: counter{total: total, report: progress}, size: size, room: semaphore.NewWeighted(size),
		buffers: buffers{most: size}, loaded: Loaded{},
	}
	g, running := errgroup.WithContext(ctx)
	g.SetLimit(max(workers, 1))
	for _, t := range tasks {
		g.Go(func() error { return l.run(running, t) })
	}
	return l.loaded, g.Wait()
}

// loading is a Load that runs.
type loading struct {
	count   counter
	size    int64               // of the room
	room    *semaphore.Weighted // for bytes in flight
	buffers buffers

	mu     sync.Mutex
	loaded Loaded
}

// run does one job.
func (l *loading) run(ctx context.Context, t task) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	room := min(t.bytes, l.size)
	if err := l.room.Acquire(ctx, room); err != nil {
		return err
	}
	defer l.room.Release(room)
	buffer := l.buffers.take(t.toRead)
	defer l.buffers.put(buffer)
	tensors, err := l.read(t.weights, buffer)
	if err != nil {
		return err
	}
	if err := t.do(tensors); err != nil {
		first := t.weights[0]
		return fmt.Errorf("load tensor %q of %s: %w", first.name, first.file.name, err)
	}
	l.count.add(t.bytes)
	return nil
}

// read reads weights one after the other into a buffer, and notes their digests.
func (l *loading) read(weights []weight, buffer []byte) ([]Tensor, error) {
	tensors := make([]Tensor, len(weights))
	digests := make([]Digest, len(weights))
	for i, w := range weights {
		var err error
		if tensors[i], digests[i], err = w.load(buffer); err != nil {
			return nil, err
		}
		if _, held := w.held(0, 0); !held {
			buffer = buffer[w.length():]
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, w := range weights {
		l.loaded[keyOf(w.ref)] = digests[i]
	}
	return tensors, nil
}

// buffers lends memory of jobs to later ones.
type buffers struct {
	mu    sync.Mutex
	free  [][]byte // from the smallest to the largest
	bytes int64    // of all, those that are lent included
	most  int64    // from so many on free ones make room for new ones
}

// take lends at least n bytes: the smallest buffer that is free and has them.
func (b *buffers) take(n int64) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := b.place(n); i < len(b.free) {
		f := b.free[i]
		b.free = slices.Delete(b.free, i, i+1)
		return f
	}
	for len(b.free) > 0 && b.bytes+n > b.most {
		b.bytes -= int64(len(b.free[0]))
		b.free = slices.Delete(b.free, 0, 1)
	}
	b.bytes += n
	return make([]byte, n)
}

// place is where the first free buffer of n bytes or more is, or would be.
func (b *buffers) place(n int64) int {
	i, _ := slices.BinarySearchFunc(b.free, n, func(f []byte, n int64) int { return cmp.Compare(int64(len(f)), n) })
	return i
}

func (b *buffers) put(buffer []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free = slices.Insert(b.free, b.place(int64(len(buffer))), buffer)
}

// task is a job whose weights were found.
type task struct {
	do      func([]Tensor) error
	weights []weight
	// bytes are those of all weights, toRead of those that are not in memory.
	bytes, toRead int64
}

// resolve finds every job's weights, and orders the jobs by file and offset.
func (c *Checkpoint) resolve(jobs []Job) (tasks []task, total int64, err error) {
	for _, j := range jobs {
		t := task{do: j.Do}
		for _, ref := range j.Refs {
			w, err := c.find(ref)
			if err != nil {
				return nil, 0, err
			}
			t.weights = append(t.weights, w)
			t.bytes += w.length()
			if _, held := w.held(0, 0); !held {
				t.toRead += w.length()
			}
		}
		total += t.bytes
		if len(j.Refs) > 0 {
			tasks = append(tasks, t)
		}
	}
	sort.SliceStable(tasks, func(i, j int) bool { return tasks[i].weights[0].precedes(tasks[j].weights[0]) })
	return tasks, total, nil
}

// BytesOf is the size of the given weights.
func (c *Checkpoint) BytesOf(refs []model.Ref) (total int64) {
	for _, ref := range refs {
		if w, err := c.find(ref); err == nil {
			total += w.length()
		}
	}
	return total
}

// Digests reads the given weights, up to workers at a time, and returns their
// digests. It holds one piece of memory for each worker. ctx's end, or an error,
// stops what has not started.
func (c *Checkpoint) Digests(ctx context.Context, refs []model.Ref, workers int) (Digests, error) {
	found := make([]weight, len(refs))
	for i, ref := range refs {
		var err error
		if found[i], err = c.find(ref); err != nil {
			return nil, err
		}
	}
	list, lent := make(Digests, len(refs)), buffers{}
	g, running := errgroup.WithContext(ctx)
	g.SetLimit(max(workers, 1))
	for _, i := range inOrder(found) {
		g.Go(func() (err error) {
			if err := running.Err(); err != nil {
				return err
			}
			buffer := lent.take(digestPiece)
			defer lent.put(buffer)
			list[i], err = found[i].pieces(buffer, false)
			return err
		})
	}
	return list, g.Wait()
}

// inOrder returns the places of weights in the list, in the order of the files' bytes.
func inOrder(weights []weight) []int {
	order := make([]int, len(weights))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(i, j int) bool { return weights[order[i]].precedes(weights[order[j]]) })
	return order
}

// precedes orders weights by file and offset.
func (w weight) precedes(o weight) bool {
	if w.file != o.file {
		return w.file.name < o.file.name
	}
	return w.begin+w.from < o.begin+o.from
}

// counter adds up bytes and reports them in order.
type counter struct {
	mu          sync.Mutex
	done, total int64
	report      func(done, total int64)
}

func (c *counter) add(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	if c.report != nil {
		c.report(c.done, c.total)
	}
}
