package headroom

import (
	"io/fs"
	"path"
	"strings"
)

// hierarchy is one of the two versions of control groups, and its files' names.
type hierarchy struct {
	fstype     string
	controller string   // as /proc/self/cgroup names it; version 2 has one entry without a name
	limits     []string // the least of them holds
	usage      string   // page cache included
	// reclaimable are the fields of memory.stat that the kernel can drop. Where
	// version 1 tells sums of a group and those below it, they count; else the group's
	// own.
	reclaimable [][]string
	// below is a file that says 0 where a group's limit does not bind those below it.
	below string
}

var (
	version1 = &hierarchy{
		fstype: "cgroup", controller: "memory",
		limits: []string{"memory.limit_in_bytes"}, usage: "memory.usage_in_bytes",
		reclaimable: [][]string{{"total_inactive_file", "total_active_file"}, {"inactive_file", "active_file"}},
		below:       "memory.use_hierarchy",
	}
	// Beyond memory.high the kernel reclaims from the group and slows it down, without
	// an end where memory is not a file's: a cache that reaches it stands still.
	version2 = &hierarchy{
		fstype: "cgroup2",
		limits: []string{"memory.max", "memory.high"}, usage: "memory.current",
		reclaimable: [][]string{{"inactive_file", "active_file", "slab_reclaimable"}},
	}
)

// own is the path of the process's group in the hierarchy, as /proc/self/cgroup
// tells it: lines of "number:controllers:path".
func (h *hierarchy) own(root fs.FS) string {
	for line := range strings.Lines(read(root, "proc/self/cgroup")) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) == 3 && contains(fields[1], h.controller) {
			return fields[2]
		}
	}
	return "/"
}

// contains says whether a list with commas has a word.
func contains(list, word string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if one == word {
			return true
		}
	}
	return false
}

// unlimited is what a limit is at least where there is none: version 1 has the
// largest number of whole pages then, 9223372036854771712 with pages of 4 KiB.
const unlimited = 1 << 62

// bounds are what a group's limits leave; own is the group that the process is in.
func (h *hierarchy) bounds(root fs.FS, dir string, own bool) []Headroom {
	if !own && h.below != "" && strings.TrimSpace(read(root, path.Join(dir, h.below))) == "0" {
		return nil
	}
	var all []Headroom
	for _, name := range h.limits {
		file := path.Join(dir, name)
		if limit, ok := number(read(root, file)); ok && limit < unlimited { // "max" is no number
			all = append(all, Headroom{max(limit-h.used(root, dir), 0), "/" + file})
		}
	}
	return all
}

// used is what a group holds and the kernel could not drop, in bytes.
func (h *hierarchy) used(root fs.FS, dir string) int64 {
	usage, _ := number(read(root, path.Join(dir, h.usage)))
	stat := fields(read(root, path.Join(dir, "memory.stat")))
	for _, names := range h.reclaimable {
		if _, told := stat[names[0]]; !told {
			continue
		}
		for _, name := range names {
			usage = max(usage-stat[name], 0)
		}
		break
	}
	return usage
}

// fields reads lines of a name and a number.
func fields(text string) map[string]int64 {
	all := map[string]int64{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, " ")
		if n, ok := number(value); ok {
			all[name] = n
		}
	}
	return all
}
