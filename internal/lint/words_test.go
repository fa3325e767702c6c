package lint

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// rule forbids a pattern in files. The patterns are written so that they do not
// match themselves.
type rule struct {
	name    string
	pattern *regexp.Regexp
	// in tells which files; nil means all.
	in     func(path string) bool
	remedy string
}

// isData reports whether a file is a test's input or output, which may hold
// anything.
func isData(path string) bool {
	return strings.HasPrefix(path, "testdata/") || strings.Contains(path, "/testdata/") ||
		strings.HasSuffix(path, ".json")
}

var rules = []rule{
	{"path of a machine", regexp.MustCompile(`(^|[^\w.~/-])/(?:work|home|Users|root)/[\w.]`),
		func(path string) bool { return !isData(path) },
		"name a path from the module's root, or take it as a parameter"},
	{"folder beside the module", regexp.MustCompile(`\.\./shar` + `ed\b(/oracle)?`), nil,
		"the one that may be named is the oracle's, which tests skip where it is missing"},
	{"unfinished work", regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`),
		func(path string) bool { return strings.HasSuffix(path, ".go") && !isData(path) },
		"finish it, or file an issue"},
	{"flag of its own", regexp.MustCompile(`flag\.Bool\("up` + `date`), func(path string) bool {
		return !strings.HasPrefix(path, "internal/golden/")
	}, "internal/golden owns -update, and compares"},
	{"merge conflict", regexp.MustCompile(`(?m)^(<{7}|>{7}) `), nil, "resolve it"},
}

func (r *rule) matches(line []byte) bool {
	m := r.pattern.FindSubmatch(line)
	return m != nil && (len(m) < 2 || string(m[len(m)-1]) != "/oracle")
}

func TestWords(t *testing.T) {
	files(t, func(path string, text []byte) {
		for _, r := range rules {
			if r.in != nil && !r.in(path) || !r.pattern.Match(text) {
				continue
			}
			for i, line := range bytes.Split(text, []byte("\n")) {
				if r.matches(line) {
					t.Errorf("%s:%d: %s: %q: %s", path, i+1, r.name, bytes.TrimSpace(line), r.remedy)
				}
			}
		}
	})
}

func TestWordsAreCaught(t *testing.T) {
	for line, want := range map[string]string{
		"open(\"/ho" + "me/user/x\")":     "path of a machine",
		"cd /wo" + "rk/main":              "path of a machine",
		"cat ../shar" + "ed/models":       "folder beside the module",
		"// TO" + "DO: later":             "unfinished work",
		"= flag.Bool(\"up" + "date\", ":   "flag of its own",
		"<<<<<<" + "< ours":               "merge conflict",
		"dir ../shar" + "ed/oracle/x":     "",
		"https://example.org/ho" + "me/x": "",
		"a/wo" + "rk/b":                   "",
	} {
		got := ""
		for _, r := range rules {
			if r.matches([]byte(line)) {
				got = r.name
			}
		}
		require.Equal(t, want, got, line)
	}
}
