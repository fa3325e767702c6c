package certs

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// names lists all that lies below a folder, but the folder itself.
func names(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if name != dir {
			all = append(all, name[len(dir)+1:])
		}
		return err
	})
	require.NoError(t, err)
	return all
}

// TestNothingHalfMade: where one of the files cannot get its name, none has one,
// and the folder is gone that was made for them.
func TestNothingHalfMade(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "certs")
	set := []file{{"ca.key", []byte("k"), 0o600}, {"nowhere/ca.crt", []byte("c"), 0o644}}
	require.ErrorIs(t, writeAll(dir, false, set), fs.ErrNotExist)
	require.Empty(t, names(t, parent))

	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ca.key"), []byte("old"), 0o600))
	require.ErrorIs(t, writeAll(dir, false, set), ErrExists)
	require.Equal(t, []string{"ca.key"}, names(t, dir), "what was there stays")
}

// TestInterruptedInit: a process that ended at any moment of an init leaves
// nothing that keeps the next one from making an authority.
func TestInterruptedInit(t *testing.T) {
	for name, left := range map[string][]string{
		"while it wrote":         {making + "/0"},
		"before the first name":  {placing + "/0", placing + "/1"},
		"between the two":        {"ca.key", placing + "/1"},
		"after the second":       {"ca.key", "ca.crt", placing + "/"},
		"twice, and while again": {"ca.key", placing + "/0", placing + "/1", making + "/0"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, file := range left {
				require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o700))
				if file[len(file)-1] != '/' {
					require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte("half"), 0o600))
				}
			}
			if left[len(left)-1] == placing+"/" {
				require.NoError(t, os.MkdirAll(filepath.Join(dir, placing), 0o700))
			}
			f := Folder(dir)
			_, err := f.Init(time.Now(), false)
			require.NoError(t, err)
			_, err = f.Authority(time.Now())
			require.NoError(t, err, "key and certificate are of one authority")
			require.ElementsMatch(t, []string{"ca.key", "ca.crt"}, names(t, dir))
			_, err = f.Init(time.Now(), false)
			require.ErrorIs(t, err, ErrExists)
		})
	}
}

// TestInterruptedWhileWriting: an authority that is there is not replaced because
// an init that was to replace it ended early.
func TestInterruptedWhileWriting(t *testing.T) {
	f := Folder(t.TempDir())
	first, err := f.Init(time.Now(), false)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(f.file(making), 0o700))
	_, err = f.Init(time.Now(), false)
	require.ErrorIs(t, err, ErrExists)
	kept, err := f.Authority(time.Now())
	require.NoError(t, err)
	require.Equal(t, first.Cert.Raw, kept.Cert.Raw)
}

// TestPrivate: a key that others may use is refused with what to run.
func TestPrivate(t *testing.T) {
	f := Folder(filepath.Join(t.TempDir(), "it's"))
	now := time.Now()
	_, err := f.Init(now, false)
	require.NoError(t, err)
	files, err := f.Issue(Request{Name: "a", NotAfter: now.Add(time.Hour)}, now, false)
	require.NoError(t, err)
	for mode, want := range map[fs.FileMode]string{0o644: "chmod 0600", 0o660: "chmod 0600", 0o404: "chmod 0400",
		0o601: "chmod 0600"} {
		require.NoError(t, os.Chmod(files.Key, mode))
		_, err := Load(files, now)
		require.ErrorIs(t, err, ErrUnusable)
		require.ErrorContains(t, err, want+" '"+filepath.Dir(string(f))+`/it'\''s/a/tls.key'`)
	}
	require.NoError(t, os.Chmod(files.Key, 0o400))
	_, err = Load(files, now)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(f.KeyFile(), 0o640))
	_, err = f.Authority(now)
	require.ErrorContains(t, err, "ca.key", "the authority's, too")
}
