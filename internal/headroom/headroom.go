// Package headroom owns how much memory this process may still take: what the
// machine has left, and what every control group above the process leaves, of
// version 1 and of version 2. It reads files that the kernel writes, and may not
// know what the memory is for.
package headroom

import (
	"io"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
)

// Headroom is memory that can still be had.
type Headroom struct {
	Bytes int64
	// Limit is the file that bounds it: "/proc/meminfo" where that is the machine, or
	// the file of the control group that is the tightest.
	Limit string
}

// Measure reads a file system, the root of the process's own, and returns the
// tightest bound; false where none can be read, as on systems other than Linux.
// Page cache of files that the kernel can drop counts as free.
func Measure(root fs.FS) (Headroom, bool) {
	all := groups(root)
	if n, ok := available(root); ok {
		all = append(all, Headroom{n, "/proc/meminfo"})
	}
	if len(all) == 0 {
		return Headroom{}, false
	}
	least := all[0]
	for _, h := range all[1:] {
		if h.Bytes < least.Bytes {
			least = h
		}
	}
	return least, true
}

// available is what the machine can give, in bytes: MemAvailable, in which the
// kernel has counted the page cache that it would drop.
func available(root fs.FS) (int64, bool) {
	for line := range strings.Lines(read(root, "proc/meminfo")) {
		if value, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			n, ok := number(strings.TrimSuffix(strings.TrimSpace(value), "kB"))
			return saturated(n, 1<<10), ok
		}
	}
	return 0, false
}

// groups are the bounds of all control groups above the process.
func groups(root fs.FS) []Headroom {
	var all []Headroom
	seen := map[string]bool{}
	group := map[*hierarchy]string{version1: version1.own(root), version2: version2.own(root)}
	for _, m := range mounts(root) {
		dir, ok := m.dirOf(group[m.hierarchy])
		for own := true; ok; own = false {
			if !seen[dir] {
				seen[dir] = true
				all = append(all, m.hierarchy.bounds(root, dir, own)...)
			}
			if dir == m.point || dir == "." {
				break
			}
			dir = path.Dir(dir)
		}
	}
	return all
}

// maxFile bounds what is read of a file, in bytes: a host with thousands of
// containers has a /proc/self/mountinfo of some hundred KiB.
const maxFile = 4 << 20

// read returns a file's text, nothing where it cannot be read.
func read(root fs.FS, name string) string {
	f, err := root.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return ""
	}
	return string(text)
}

// number reads a whole number that is not negative; what int64 cannot hold is the
// largest that it can.
func number(text string) (int64, bool) {
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	return int64(min(n, math.MaxInt64)), err == nil
}

// saturated is a product of numbers that are not negative, at most the largest.
func saturated(n, unit int64) int64 {
	if n > math.MaxInt64/unit {
		return math.MaxInt64
	}
	return n * unit
}
