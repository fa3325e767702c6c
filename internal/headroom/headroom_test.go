package headroom

import (
	"io/fs"
	"math"
	"os"
	"strconv"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

const (
	mib     = 1 << 20
	gib     = 1 << 30
	meminfo = "MemTotal:       16777216 kB\nMemFree:          524288 kB\nMemAvailable:    8388608 kB\n" // 8 GiB

	v1Mount   = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
	v2Mount   = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	noLimitV1 = "9223372036854771712\n"
)

// tree is a file system with the given files.
func tree(files map[string]string) fs.FS {
	t := fstest.MapFS{}
	for name, text := range files {
		t[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return t
}

func text(n int64) string { return strconv.FormatInt(n, 10) + "\n" }

// TestMeasure reads trees of files as kernels write them.
func TestMeasure(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int64
		limit string
	}{
		{"no groups at all", map[string]string{"proc/meminfo": meminfo}, 8 * gib, "/proc/meminfo"},
		{"version 2, a container with a namespace", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/memory.max": text(gib), "sys/fs/cgroup/memory.current": text(50 * mib),
		}, gib - 50*mib, "/sys/fs/cgroup/memory.max"},
		{"version 2, nearly all of it page cache", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/memory.max": text(gib), "sys/fs/cgroup/memory.current": text(gib),
			"sys/fs/cgroup/memory.stat": "anon 20971520\nfile 1052770304\nactive_file 10485760\ninactive_file 1041235968\nslab_reclaimable 1048576\n",
		}, 10*mib + 1041235968 + mib, "/sys/fs/cgroup/memory.max"},
		{"version 2, memory.high below memory.max", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/memory.max": text(2 * gib), "sys/fs/cgroup/memory.high": text(gib),
			"sys/fs/cgroup/memory.current": text(mib),
		}, gib - mib, "/sys/fs/cgroup/memory.high"},
		{"version 2, no limit", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/a/memory.max": "max\n", "sys/fs/cgroup/a/memory.high": "max\n",
			"sys/fs/cgroup/a/memory.current": text(gib),
		}, 8 * gib, "/proc/meminfo"},
		{"version 2, a systemd unit below a slice that is tighter", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/ai.slice/tandem.service\n",
			"proc/self/mountinfo":                                  v2Mount,
			"sys/fs/cgroup/ai.slice/tandem.service/memory.max":     text(4 * gib),
			"sys/fs/cgroup/ai.slice/tandem.service/memory.current": text(100 * mib),
			"sys/fs/cgroup/ai.slice/memory.max":                    text(2 * gib),
			"sys/fs/cgroup/ai.slice/memory.current":                text(gib), // siblings' too
		}, gib, "/sys/fs/cgroup/ai.slice/memory.max"},
		{"version 2, the unit is tighter than its slice", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/ai.slice/tandem.service\n",
			"proc/self/mountinfo":                              v2Mount,
			"sys/fs/cgroup/ai.slice/tandem.service/memory.max": text(gib),
			"sys/fs/cgroup/ai.slice/memory.max":                text(4 * gib),
		}, gib, "/sys/fs/cgroup/ai.slice/tandem.service/memory.max"},
		{"version 2, more is used than the limit", map[string]string{
			"proc/meminfo": meminfo, "sys/fs/cgroup/memory.max": text(gib),
			"sys/fs/cgroup/memory.current": text(2 * gib),
		}, 0, "/sys/fs/cgroup/memory.max"},
		{"version 2, the machine has less than the group may take", map[string]string{
			"proc/meminfo": meminfo, "sys/fs/cgroup/memory.max": text(64 * gib),
			"sys/fs/cgroup/memory.current": text(0),
		}, 8 * gib, "/proc/meminfo"},
		{"version 2 below a mount of its own, with a space", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a b/c\n",
			"proc/self/mountinfo":         "29 23 0:26 /a\\040b /groups\\040of\\040mine rw - cgroup2 cgroup2 rw\n",
			"groups of mine/c/memory.max": text(3 * gib), "groups of mine/memory.max": text(2 * gib),
		}, 2 * gib, "/groups of mine/memory.max"},
		{"a mount of somebody else's group", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/mine\n",
			"proc/self/mountinfo":           "29 23 0:26 /theirs /theirs rw - cgroup2 cgroup2 rw\n30 23 0:26 /../up /up rw - cgroup2 cgroup2 rw\n",
			"theirs/memory.max":             text(mib),
			"up/memory.max":                 text(mib),
			"sys/fs/cgroup/mine/memory.max": text(gib),
		}, gib, "/sys/fs/cgroup/mine/memory.max"},
		{"version 1, no limit", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/\n0::/\n", "proc/self/mountinfo": v1Mount,
			"sys/fs/cgroup/memory/memory.limit_in_bytes": noLimitV1, "sys/fs/cgroup/memory/memory.usage_in_bytes": text(gib),
		}, 8 * gib, "/proc/meminfo"},
		{"version 1, a container that sees its own group as the root", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n",
			"proc/self/mountinfo":                        "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:11 - cgroup cgroup rw,memory\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": text(gib),
			"sys/fs/cgroup/memory/memory.usage_in_bytes": text(50 * mib),
			"sys/fs/cgroup/memory/memory.use_hierarchy":  "0\n",
		}, gib - 50*mib, "/sys/fs/cgroup/memory/memory.limit_in_bytes"},
		{"version 1, nested, sums of page cache", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/pod/c\n", "proc/self/mountinfo": v1Mount,
			"sys/fs/cgroup/memory/pod/c/memory.limit_in_bytes": noLimitV1,
			"sys/fs/cgroup/memory/pod/memory.limit_in_bytes":   text(gib), "sys/fs/cgroup/memory/pod/memory.usage_in_bytes": text(gib),
			"sys/fs/cgroup/memory/pod/memory.stat":          "inactive_file 0\nactive_file 0\ntotal_inactive_file 734003200\ntotal_active_file 104857600\n",
			"sys/fs/cgroup/memory/pod/memory.use_hierarchy": "1\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":    noLimitV1,
		}, 800 * mib, "/sys/fs/cgroup/memory/pod/memory.limit_in_bytes"},
		{"version 1, a group whose limit does not bind those below it", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/pod/c\n", "proc/self/mountinfo": v1Mount,
			"sys/fs/cgroup/memory/pod/memory.limit_in_bytes": text(mib), "sys/fs/cgroup/memory/pod/memory.use_hierarchy": "0\n",
			"sys/fs/cgroup/memory/pod/c/memory.limit_in_bytes": text(gib), "sys/fs/cgroup/memory/pod/c/memory.use_hierarchy": "0\n",
			"sys/fs/cgroup/memory/pod/c/memory.stat": "inactive_file 5\n",
		}, gib, "/sys/fs/cgroup/memory/pod/c/memory.limit_in_bytes"},
		{"both versions, memory in the first", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/a\n1:name=systemd:/b\n0::/c\n",
			"proc/self/mountinfo":                          v1Mount + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": text(gib), "sys/fs/cgroup/unified/c/cgroup.procs": "1\n",
		}, gib, "/sys/fs/cgroup/memory/a/memory.limit_in_bytes"},
		{"a limit and nothing else", map[string]string{"sys/fs/cgroup/memory.max": text(gib)}, gib,
			"/sys/fs/cgroup/memory.max"},
		{"files that say nothing", map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "nonsense\n::\n4:memory\n",
			"proc/self/mountinfo":      "- \n1 2 3\n" + v1Mount,
			"sys/fs/cgroup/memory.max": "", "sys/fs/cgroup/memory/memory.limit_in_bytes": "many\n",
		}, 8 * gib, "/proc/meminfo"},
	} {
		got, ok := Measure(tree(c.files))
		require.True(t, ok, c.name)
		require.Equal(t, Headroom{c.want, c.limit}, got, c.name)
	}
}

// TestNothingToRead: a system that tells nothing is told apart from one that has
// nothing.
func TestNothingToRead(t *testing.T) {
	_, ok := Measure(tree(nil))
	require.False(t, ok)
	got, ok := Measure(tree(map[string]string{"proc/meminfo": "MemAvailable: 99999999999999999999 kB\n"}))
	require.False(t, ok, "%v", got)
	got, ok = Measure(tree(map[string]string{"proc/meminfo": "MemAvailable: 9999999999999999999 kB\n"}))
	require.True(t, ok)
	require.EqualValues(t, math.MaxInt64, got.Bytes)
}

// TestThisMachine has memory left.
func TestThisMachine(t *testing.T) {
	if _, err := os.Stat("/proc/meminfo"); err != nil {
		t.Skip("not Linux")
	}
	got, ok := Measure(os.DirFS("/"))
	require.True(t, ok)
	require.Positive(t, got.Bytes)
}

// FuzzMeasure: whatever the files say, the answer is a number that is not
// negative, and none that a limit forbids.
func FuzzMeasure(f *testing.F) {
	f.Add("0::/a/b\n", v2Mount, "1073741824\n", "5000\n", "inactive_file 77\n")
	f.Add("4:memory:/a\n0::/\n", v1Mount, noLimitV1, "", "total_inactive_file 9\n")
	f.Add("0::/../x\n", "29 23 0:26 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "max", "18446744073709551615",
		"active_file 18446744073709551615\n")
	f.Fuzz(func(t *testing.T, groups, mounts, limit, usage, stat string) {
		got, ok := Measure(tree(map[string]string{
			"proc/self/cgroup": groups, "proc/self/mountinfo": mounts,
			"sys/fs/cgroup/memory.max": limit, "sys/fs/cgroup/memory.current": usage, "sys/fs/cgroup/memory.stat": stat,
			"sys/fs/cgroup/memory/memory.limit_in_bytes": limit, "sys/fs/cgroup/memory/memory.usage_in_bytes": usage,
		}))
		n, is := number(limit)
		require.Equal(t, is && n < unlimited, ok)
		if ok {
			require.GreaterOrEqual(t, got.Bytes, int64(0))
			require.LessOrEqual(t, got.Bytes, n)
		}
	})
}
