package headroom

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// mount is where a hierarchy, or the part of it below a group, can be seen.
type mount struct {
	hierarchy *hierarchy
	root      string // the group that is seen at point: "/", or "/docker/…"
	point     string // a path of the file system, without the first slash
}

// conventional are where the hierarchies lie on nearly all systems. They are
// looked at whatever the kernel says of mounts, which some sandboxes hide or fake.
var conventional = []mount{
	{version1, "/", "sys/fs/cgroup/memory"},
	{version2, "/", "sys/fs/cgroup"},
}

// mounts lists where groups that bound memory can be seen.
func mounts(root fs.FS) []mount {
	var all []mount
	for line := range strings.Lines(read(root, "proc/self/mountinfo")) {
		if m, ok := parseMount(line); ok {
			all = append(all, m)
		}
	}
	return append(all, conventional...)
}

// parseMount reads a line of /proc/self/mountinfo, proc(5): six fields or more, a
// hyphen, and three of the file system. Version 1 has a mount for each controller.
func parseMount(line string) (mount, bool) {
	front, back, _ := strings.Cut(line, " - ")
	of, system := strings.Fields(front), strings.Fields(back)
	if len(of) < 6 || len(system) < 3 {
		return mount{}, false
	}
	m := mount{root: path.Clean("/" + unescaped(of[3])),
		point: strings.TrimPrefix(path.Clean("/"+unescaped(of[4])), "/")}
	if strings.HasPrefix(unescaped(of[3]), "/..") {
		m.root = outside
	}
	switch {
	case m.point == "":
		return mount{}, false
	case system[0] == version2.fstype:
		m.hierarchy = version2
	case system[0] == version1.fstype && contains(system[2], version1.controller):
		m.hierarchy = version1
	default:
		return mount{}, false
	}
	return m, true
}

// outside is the root of a mount that shows a group outside of the process's
// namespace, "/.." and the like: one above all groups that the process can name,
// or beside them.
const outside = ""

// maxPath bounds paths in bytes, as the kernel does.
const maxPath = 4096

// dirOf is where a group lies below the mount; false where it cannot be seen there.
func (m mount) dirOf(group string) (string, bool) {
	if len(group)+len(m.root)+len(m.point) > maxPath {
		return "", false
	}
	group = path.Clean("/" + group)
	switch {
	case m.root == "/":
		return path.Join(m.point, group), true
	case m.root == group:
		return m.point, true
	case m.root != outside && strings.HasPrefix(group, m.root+"/"):
		return path.Join(m.point, strings.TrimPrefix(group, m.root)), true
	}
	return "", false
}

// unescaped replaces \040 and the like, by which mountinfo writes spaces.
func unescaped(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
