package checkpoint

import (
	"context"
	"fmt"
	"sort"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tandem-moe/tandem/model"
)

// Job is a set of weights and what is to be done with them, such as packing
// them into one matrix.
type Job struct {
	Refs []model.Ref
	// Do gets the weights in the order of Refs. It must not keep their bytes
	// after it returns if the checkpoint is closed later.
	Do func([]Tensor) error
}

// Load does all jobs, up to workers at a time, starting them in the order of
// the files' bytes so that a disk reads forward. All weights are checked before
// the first job starts. progress, where it is not nil, is called after each job
// with the bytes done and the bytes of all jobs, one call at a time and rising.
// The first error, or ctx's end, stops what has not started.
func (c *Checkpoint) Load(ctx context.Context, jobs []Job, workers int, progress func(done, total int64)) error {
	work, total, err := c.resolve(jobs)
	if err != nil {
		return err
	}
	count := counter{total: total, report: progress}
	g, running := errgroup.WithContext(ctx)
	g.SetLimit(max(workers, 1))
	for _, w := range work {
		g.Go(func() error {
			if err := running.Err(); err != nil {
				return err
			}
			if err := w.do(w.tensors); err != nil {
				return fmt.Errorf("load tensor %q of %s: %w", w.first.name, w.first.file.name, err)
			}
			count.add(w.bytes)
			return nil
		})
	}
	return g.Wait()
}

// task is a job whose weights were found.
type task struct {
	do      func([]Tensor) error
	tensors []Tensor
	bytes   int64
	first   place
}

// resolve finds every job's weights, and orders the jobs by file and offset.
func (c *Checkpoint) resolve(jobs []Job) (tasks []task, total int64, err error) {
	for _, j := range jobs {
		t := task{do: j.Do}
		for i, ref := range j.Refs {
			w, err := c.Weight(ref)
			if err != nil {
				return nil, 0, err
			}
			if i == 0 {
				t.first = c.tensors[ref.Name]
			}
			t.tensors = append(t.tensors, w)
			t.bytes += int64(len(w.Data))
		}
		total += t.bytes
		if len(j.Refs) > 0 {
			tasks = append(tasks, t)
		}
	}
	sort.SliceStable(tasks, func(i, j int) bool { return tasks[i].first.precedes(tasks[j].first) })
	return tasks, total, nil
}

func (p place) precedes(q place) bool {
	if p.file != q.file {
		return p.file.name < q.file.name
	}
	return p.begin < q.begin
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
