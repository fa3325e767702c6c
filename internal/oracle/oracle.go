// Package oracle owns the outputs of other implementations that tests agree
// with: it finds and reads them. It may not know how they are computed here.
package oracle

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Dir returns the oracle's folder: TANDEM_ORACLE, or ../shared/oracle beside
// the module. It skips the test where there is none, and fails it where
// TANDEM_ORACLE names a folder that is not there.
func Dir(t testing.TB) string {
	t.Helper()
	dir, ok := find(t)
	if !ok {
		t.Skipf("no oracle: neither TANDEM_ORACLE nor %s", beside())
	}
	return dir
}

func beside() string { return filepath.Join(Root(), "..", "shared", "oracle") }

// find is Dir without skipping.
func find(t testing.TB) (string, bool) {
	t.Helper()
	dir, named := os.LookupEnv("TANDEM_ORACLE")
	named = named && dir != ""
	if !named {
		dir = beside()
	}
	_, err := os.Stat(dir)
	if named && err != nil {
		t.Fatalf("TANDEM_ORACLE: %v", err)
	}
	return dir, err == nil
}

// Root is the module's root.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
