// Package certs owns who belongs to a cluster: its certificate authority, the
// certificates that the authority issues to members, and the TLS configuration
// by which members know each other: TLS 1.3, mutual. It may not know who uses
// them, nor what a member does.
//
// Every member's certificate carries the DNS name [ClusterName] beside the hosts
// that it is for. Both ends of a connection ask for that name, so that a member
// may have any address, and a certificate of the same authority that was issued
// for something else is refused.
package certs

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tandem-moe/tandem/internal/bounded"
)

// ClusterName is the DNS name that all members have in common.
const ClusterName = "tandem-cluster"

// Reasons for refusing files, for errors.Is.
var (
	// ErrExpired: a certificate is not valid any more, or not yet.
	ErrExpired = errors.New("certificate is not valid at this time")
	// ErrExists: a file is there, and was not to be replaced.
	ErrExists = errors.New("file exists")
	// ErrUnusable: a file is not what it is used as.
	ErrUnusable = errors.New("unusable")
)

// The names of a member's files, as Kubernetes and cert-manager call them, and
// of the authority's key, which stays with whoever issues certificates.
const (
	authorityCert = "ca.crt"
	authorityKey  = "ca.key"
	memberCert    = "tls.crt"
	memberKey     = "tls.key"
)

// Files are the PEM files of a member.
type Files struct {
	// CA has the certificates of the cluster's authority: one, or two while it is
	// being replaced.
	CA string
	// Cert is the member's certificate, with those between it and the authority
	// where there are any. Key is its private key.
	Cert, Key string
}

// InFolder are the files of a folder that [Folder.Issue] made, or of a mounted
// Kubernetes secret: ca.crt, tls.crt and tls.key.
func InFolder(dir string) Files {
	return Files{CA: filepath.Join(dir, authorityCert), Cert: filepath.Join(dir, memberCert),
		Key: filepath.Join(dir, memberKey)}
}

// maxFile bounds the files that are read, in bytes.
const maxFile = 1 << 20

// readFile reads a file of bounded size.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := bounded.Read(f, maxFile)
	if long := (*bounded.TooLong)(nil); errors.As(err, &long) {
		return nil, fmt.Errorf("%s: %w as PEM: it %w", name, ErrUnusable, err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return text, nil
}

// quoted writes a file's name for a shell.
func quoted(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool {
		return !(r == '/' || r == '.' || r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' ||
			'A' <= r && r <= 'Z')
	}) {
		return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
	}
	return name
}

// valid checks a certificate's times; file says where it is from.
func valid(file string, c *x509.Certificate, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("%s: %w: %s ended at %s, now is %s", file, ErrExpired, describe(c), stamp(c.NotAfter),
			stamp(now))
	case now.Before(c.NotBefore):
		return fmt.Errorf("%s: %w: %s begins at %s, now is %s", file, ErrExpired, describe(c), stamp(c.NotBefore),
			stamp(now))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// describe names a certificate by its subject and, as names repeat, its key.
func describe(c *x509.Certificate) string { return named(c.Subject.CommonName, c.SubjectKeyId) }

// issuerOf names a certificate's issuer as describe names the issuer itself.
func issuerOf(c *x509.Certificate) string { return named(c.Issuer.CommonName, c.AuthorityKeyId) }

func named(name string, key []byte) string {
	if id := short(key); !strings.HasSuffix(name, id) {
		return fmt.Sprintf("%q (key %s)", name, id)
	}
	return strconv.Quote(name)
}

// short is the beginning of a key's identifier.
func short(id []byte) string {
	if len(id) == 0 {
		return "unknown"
	}
	return hex.EncodeToString(id[:min(len(id), 4)])
}
