package certs

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

// Folder is where an authority and what it has issued lie:
//
//	DIR/ca.crt        the authority's certificate
//	DIR/ca.key        its key, which never leaves this folder
//	DIR/NAME/ca.crt   what the member NAME gets: the authority's certificate,
//	DIR/NAME/tls.crt  its own,
//	DIR/NAME/tls.key  and its key
type Folder string

// file is a path of the folder.
func (f Folder) file(names ...string) string {
	return filepath.Join(append([]string{string(f)}, names...)...)
}

// CertFile is the authority's certificate.
func (f Folder) CertFile() string { return f.file(authorityCert) }

// KeyFile is the authority's key.
func (f Folder) KeyFile() string { return f.file(authorityKey) }

// Init makes the authority. Where there is one it is kept, with an error, unless
// replace is set: then no member that the old one knows will be known any more.
func (f Folder) Init(now time.Time, replace bool) (*Authority, error) {
	a, err := NewAuthority(now)
	if err != nil {
		return nil, err
	}
	key, err := encodeKey(a.key)
	if err != nil {
		return nil, err
	}
	err = writeAll(string(f), replace, []file{
		{authorityKey, key, 0o600},
		{authorityCert, encodeCert(a.Cert), 0o644},
	})
	if err != nil {
		return nil, fmt.Errorf("making an authority: %w", err)
	}
	return a, nil
}

// Authority reads the folder's authority, for issuing.
func (f Folder) Authority(now time.Time) (*Authority, error) {
	known, err := readAuthorities(f.CertFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no authority yet; \"tandem certs init\" makes one", err)
	}
	if err != nil {
		return nil, err
	}
	cert := known.certs[0]
	if err := valid(known.file, cert, now); err != nil {
		return nil, err
	}
	key, err := readKey(f.KeyFile(), cert, known.file)
	if err != nil {
		return nil, err
	}
	return &Authority{cert, key}, nil
}

// Issue makes the certificate and the key of a member in a folder of its own,
// which is all that the member needs. Files that are there are kept, with an
// error, unless replace is set.
func (f Folder) Issue(r Request, now time.Time, replace bool) (Files, error) {
	a, err := f.Authority(now)
	if err != nil {
		return Files{}, fmt.Errorf("issuing a certificate: %w", err)
	}
	if r.Name == authorityCert || r.Name == authorityKey {
		return Files{}, fmt.Errorf("name %q: it is that of a file of the authority", r.Name)
	}
	cert, key, err := a.Issue(r, now)
	if err != nil {
		return Files{}, err
	}
	err = writeAll(f.file(r.Name), replace, []file{
		{memberKey, key, 0o600},
		{memberCert, cert, 0o644},
		{authorityCert, encodeCert(a.Cert), 0o644},
	})
	if err != nil {
		return Files{}, fmt.Errorf("issuing a certificate: %w", err)
	}
	return InFolder(f.file(r.Name)), nil
}
