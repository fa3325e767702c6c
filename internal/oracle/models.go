package oracle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tandem-moe/tandem/model"
)

// Fixtures is the folder of the project's own reference models, in the oracle's
// layout; scripts/fixtures/make.py makes them.
func Fixtures() string { return filepath.Join(Root(), "testdata", "models") }

// Models returns the folders of all reference models of these families, or of
// every family where none is given: the project's own, then the oracle's where
// it is there. It fails the test where the project's own are missing.
func Models(t testing.TB, families ...model.Family) []string {
	t.Helper()
	dirs := folders(t, Fixtures())
	if dir, ok := find(t); ok {
		dirs = append(dirs, folders(t, filepath.Join(dir, "models"))...)
	} else {
		t.Logf("without the oracle, the models of %s are all", Fixtures())
	}
	return slices.DeleteFunc(dirs, func(dir string) bool {
		return len(families) > 0 && !slices.Contains(families, familyOf(t, dir))
	})
}

// folders lists the folders in dir, sorted.
func folders(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatalf("reference models: %v", err)
	}
	var list []string
	for _, e := range entries {
		if e.IsDir() {
			list = append(list, filepath.Join(dir, e.Name()))
		}
	}
	return list
}

func familyOf(t testing.TB, dir string) model.Family {
	t.Helper()
	var config struct {
		Family model.Family `json:"model_type"`
	}
	readJSON(t, filepath.Join(dir, model.ConfigFile), &config)
	return config.Family
}

func readJSON(t testing.TB, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}
