package deploy

import (
	"os"
	"strconv"
	"strings"
)

// fallbackMemory stands in where the system does not tell.
const fallbackMemory = 4 << 30

// freeMemory is the bytes of memory that could be had now, within the limit of
// the control group where there is one.
func freeMemory() int64 {
	free := int64(fallbackMemory)
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		if n, ok := meminfo(string(text), "MemAvailable"); ok {
			free = n
		}
	}
	limit, ok := number("/sys/fs/cgroup/memory.max")
	if !ok {
		return free
	}
	used, _ := number("/sys/fs/cgroup/memory.current")
	return min(free, max(limit-used, 0))
}

// meminfo finds a field of /proc/meminfo, in bytes.
func meminfo(text, field string) (int64, bool) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		if name != field {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		return n << 10, err == nil
	}
	return 0, false
}

// number reads a file that holds one; "max" is none.
func number(path string) (int64, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}
