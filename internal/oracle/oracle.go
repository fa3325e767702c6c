// Package oracle finds the outputs of other implementations that tests agree
// with. It may not know what is in them.
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
	if dir := os.Getenv("TANDEM_ORACLE"); dir != "" {
		if _, err := os.Stat(dir); err != nil {
			t.Fatalf("TANDEM_ORACLE: %v", err)
		}
		return dir
	}
	dir := filepath.Join(Root(), "..", "shared", "oracle")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no oracle: neither TANDEM_ORACLE nor %s", dir)
	}
	return dir
}

// Root is the module's root.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}
