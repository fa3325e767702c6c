package certs_test

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/certs"
)

// TestFiles: keys are readable to their owner alone, in place of a file that was
// not, too, and nothing is replaced unasked.
func TestFiles(t *testing.T) {
	f := folder(t)
	now := time.Now()
	request := certs.Request{Name: "node-1", Hosts: []string{"node-1.example.org", "10.0.0.7", "::1"},
		NotAfter: now.AddDate(0, 0, 30)}
	files, err := f.Issue(request, now, false)
	require.NoError(t, err)
	require.Equal(t, certs.InFolder(filepath.Join(string(f), "node-1")), files)
	for _, key := range []string{f.KeyFile(), files.Key} {
		info, err := os.Stat(key)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode(), key)
	}
	before := texts(t, f.CertFile(), f.KeyFile(), files.CA, files.Cert, files.Key)
	_, err = f.Init(now, false)
	require.ErrorIs(t, err, certs.ErrExists)
	require.ErrorContains(t, err, "ca.key")
	require.NoError(t, os.Remove(files.Key))
	_, err = f.Issue(request, now, false)
	require.ErrorIs(t, err, certs.ErrExists, "one file is enough")
	require.NoFileExists(t, files.Key)
	require.Equal(t, before[:4], texts(t, f.CertFile(), f.KeyFile(), files.CA, files.Cert))

	require.NoError(t, os.WriteFile(files.Key, nil, 0o644)) //nolint:gosec // too open, on purpose
	_, err = f.Issue(request, now, true)
	require.NoError(t, err)
	info, err := os.Stat(files.Key)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	i, err := certs.Load(files, now)
	require.NoError(t, err)
	require.Equal(t, []string{certs.ClusterName, "node-1.example.org"}, i.Leaf().DNSNames)
	require.Len(t, i.Leaf().IPAddresses, 2)
	require.WithinDuration(t, request.NotAfter, i.Leaf().NotAfter, time.Second)
	left, err := filepath.Glob(filepath.Join(string(f), "*", "*.*.*"))
	require.NoError(t, err)
	require.Empty(t, left, "temporary files")

	_, err = f.Init(now, true)
	require.NoError(t, err)
	require.NotEqual(t, before[0], texts(t, f.CertFile())[0])
}

func texts(t *testing.T, names ...string) []string {
	t.Helper()
	var all []string
	for _, n := range names {
		text, err := os.ReadFile(n)
		require.NoError(t, err)
		all = append(all, string(text))
	}
	return all
}

// TestNotLongerThanTheAuthority: a member's certificate that outlives its
// authority's would be refused before its end.
func TestNotLongerThanTheAuthority(t *testing.T) {
	f, now := folder(t), time.Now()
	files, err := f.Issue(certs.Request{Name: "a", NotAfter: now.AddDate(2*certs.AuthorityYears, 0, 0)}, now, false)
	require.NoError(t, err)
	i, err := certs.Load(files, now)
	require.NoError(t, err)
	a, err := f.Authority(now)
	require.NoError(t, err)
	require.Equal(t, a.Cert.NotAfter, i.Leaf().NotAfter)
	require.Equal(t, now.AddDate(certs.AuthorityYears, 0, -1).Unix(), a.Cert.NotAfter.Unix())
}

// TestRequests that make no sense are refused by what is wrong with them.
func TestRequests(t *testing.T) {
	f, now := folder(t), time.Now()
	later := now.Add(time.Hour)
	for _, r := range []certs.Request{
		{Name: "", NotAfter: later},
		{Name: "../a", NotAfter: later},
		{Name: "..", NotAfter: later},
		{Name: "a b", NotAfter: later},
		{Name: strings.Repeat("a", 64), NotAfter: later},
		{Name: "ca.crt", NotAfter: later},
		{Name: "ca.key", NotAfter: later},
		{Name: "a", Hosts: []string{"host:80"}, NotAfter: later},
		{Name: "a", Hosts: []string{""}, NotAfter: later},
		{Name: "a", Hosts: []string{"a..b"}, NotAfter: later},
		{Name: "a", NotAfter: now},
	} {
		_, err := f.Issue(r, now, false)
		require.Error(t, err, "%+v", r)
		wrong := r.Name
		if len(r.Hosts) > 0 {
			wrong = r.Hosts[0]
		}
		require.ErrorContains(t, err, `"`+wrong+`"`)
	}
	list, err := f.List(now)
	require.NoError(t, err)
	require.Len(t, list, 1, "only the authority")
}

// TestLoadNamesTheFile that is wrong, and both values where two disagree.
func TestLoadNamesTheFile(t *testing.T) {
	now := time.Now()
	other := folder(t)
	for _, c := range []struct {
		name   string
		change func(f certs.Folder, files *certs.Files)
		at     time.Time
		is     error
		says   func(certs.Files) []string
	}{
		{"missing", func(_ certs.Folder, files *certs.Files) { require.NoError(t, os.Remove(files.Key)) }, now,
			os.ErrNotExist,
			func(f certs.Files) []string { return []string{f.Key} }},
		{"other authority", func(_ certs.Folder, files *certs.Files) { files.CA = other.CertFile() }, now,
			certs.ErrUnusable,
			func(f certs.Files) []string {
				return []string{f.Cert, f.CA, "signed by", "certificate signed by unknown authority"}
			}},
		{"member as authority", func(_ certs.Folder, files *certs.Files) { files.CA = files.Cert }, now,
			certs.ErrUnusable,
			func(f certs.Files) []string { return []string{f.CA, "member's"} }},
		{"authority as member", func(f certs.Folder, files *certs.Files) {
			files.Cert, files.Key = f.CertFile(),
				f.KeyFile()
		}, now, certs.ErrUnusable,
			func(f certs.Files) []string { return []string{f.Cert, certs.ClusterName} }},
		{"other's key", func(f certs.Folder, files *certs.Files) { files.Key = issue(t, f, "b", now).Key }, now,
			certs.ErrUnusable,
			func(f certs.Files) []string { return []string{f.Key, f.Cert, `"a"`} }},
		{"ended", nil, now.Add(2 * time.Hour), certs.ErrExpired,
			func(f certs.Files) []string { return []string{f.Cert, `"a"`, "ended at"} }},
		{"not begun", nil, now.Add(-2 * time.Hour), certs.ErrExpired,
			func(f certs.Files) []string { return []string{f.Cert, "begins at"} }},
		{"no PEM", func(_ certs.Folder, files *certs.Files) { write(t, files.Cert, "nonsense") }, now,
			certs.ErrUnusable,
			func(f certs.Files) []string { return []string{f.Cert, "no PEM block"} }},
		{"key in place of a certificate", func(_ certs.Folder, files *certs.Files) { files.Cert = files.Key }, now,
			certs.ErrUnusable,
			func(f certs.Files) []string { return []string{f.Cert, "PRIVATE KEY", "want CERTIFICATE"} }},
		{"certificate in place of a key", func(_ certs.Folder, files *certs.Files) { files.Key = files.Cert }, now,
			certs.ErrUnusable,
			func(f certs.Files) []string { return []string{f.Key, `"CERTIFICATE"`} }},
		{"huge", func(_ certs.Folder, files *certs.Files) { write(t, files.Cert, strings.Repeat("x", 2<<20)) }, now,
			certs.ErrUnusable,
			func(f certs.Files) []string { return []string{f.Cert, "more than 1048576 bytes"} }},
		{"name", func(f certs.Folder, files *certs.Files) {
			rewrite(t, f, *files, func(c *x509.Certificate) { c.DNSNames = []string{"www.example.org"} })
		}, now, certs.ErrUnusable,
			func(f certs.Files) []string { return []string{f.Cert, "www.example.org", certs.ClusterName} }},
		{"server only", func(f certs.Folder, files *certs.Files) {
			rewrite(t, f, *files, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })
		}, now, certs.ErrUnusable,
			func(f certs.Files) []string { return []string{f.Cert, "incompatible key usage"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := folder(t)
			files := issue(t, f, "a", now)
			if c.change != nil {
				c.change(f, &files)
			}
			_, err := certs.Load(files, c.at)
			require.ErrorIs(t, err, c.is)
			for _, s := range c.says(files) {
				require.ErrorContains(t, err, s)
			}
		})
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
}

// rewrite replaces a member's files by those of an unusual certificate.
func rewrite(t *testing.T, f certs.Folder, files certs.Files, change func(*x509.Certificate)) {
	t.Helper()
	a, err := f.Authority(time.Now())
	require.NoError(t, err)
	certs.WriteForTest(t, files, certs.ForTest(t, a, change))
}

// TestAuthorityExpires: it issues nothing any more, and its members are no
// longer members.
func TestAuthorityExpires(t *testing.T) {
	f := certs.Folder(t.TempDir())
	then := time.Now().AddDate(-certs.AuthorityYears, 0, 0).Add(10 * time.Minute)
	_, err := f.Init(then, false)
	require.NoError(t, err)
	files, err := f.Issue(certs.Request{Name: "a", NotAfter: time.Now().Add(time.Hour)}, then, false)
	require.NoError(t, err)
	later := time.Now().Add(30 * time.Minute)
	_, err = f.Issue(certs.Request{Name: "b", NotAfter: later.Add(time.Hour)}, later, false)
	require.ErrorIs(t, err, certs.ErrExpired)
	require.ErrorContains(t, err, f.CertFile())
	_, err = certs.Load(files, later)
	require.ErrorIs(t, err, certs.ErrExpired)
}

// TestList tells of every certificate, and of what is wrong with it.
func TestList(t *testing.T) {
	f, now := folder(t), time.Now()
	files := issue(t, f, "a", now)
	issue(t, f, "b", now.Add(-90*time.Minute))
	write(t, issue(t, f, "c", now).Cert, "nonsense")
	require.NoError(t, os.Mkdir(filepath.Join(string(f), "unrelated"), 0o700))
	list, err := f.List(now)
	require.NoError(t, err)
	require.Len(t, list, 4)
	require.Equal(t, f.CertFile(), list[0].File)
	require.NoError(t, list[0].Err)
	require.Equal(t, "a", list[1].Cert.Subject.CommonName)
	require.NoError(t, list[1].Err)
	require.Equal(t, "59 minutes", certs.Remaining(list[1].Cert, now))
	require.ErrorIs(t, list[2].Err, certs.ErrExpired)
	require.Equal(t, "expired", certs.Remaining(list[2].Cert, now))
	require.ErrorIs(t, list[3].Err, certs.ErrUnusable)
	require.Regexp(t, `^365[0-2] days$`, certs.Remaining(list[0].Cert, now))

	own, err := certs.Folder(filepath.Dir(files.Cert)).List(now)
	require.NoError(t, err)
	require.Len(t, own, 2, "a member's own folder")
	_, err = certs.Folder(t.TempDir()).List(now)
	require.ErrorIs(t, err, os.ErrNotExist)
}
