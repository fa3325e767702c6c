package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// Entry is a certificate file of a folder.
type Entry struct {
	File string
	Cert *x509.Certificate
	// Err is what a peer would have against it, or why it cannot be read.
	Err error
}

// List reads the certificates of the authority and of all members, or of one
// member's own folder, in the order of their names.
func (f Folder) List(now time.Time) ([]Entry, error) {
	known, err := readAuthorities(f.CertFile())
	if err != nil {
		return nil, err
	}
	var list []Entry
	for _, c := range known.certs {
		list = append(list, Entry{known.file, c, valid(known.file, c, now)})
	}
	folders, err := f.folders()
	for _, d := range folders {
		if e, found := f.entry(d, known, now); found {
			list = append(list, e)
		}
	}
	return list, err
}

// folders are those that may be members': this one, and those in it.
func (f Folder) folders() ([]string, error) {
	inside, err := os.ReadDir(string(f))
	folders := []string{"."}
	for _, d := range inside {
		if d.IsDir() && !strings.HasPrefix(d.Name(), ".") { // members' names have no dot in front
			folders = append(folders, d.Name())
		}
	}
	return folders, err
}

// entry reads the certificate of a member's folder, if it is one.
func (f Folder) entry(member string, known *authorities, now time.Time) (Entry, bool) {
	e := Entry{File: f.file(member, memberCert)}
	chain, err := readCerts(e.File)
	if err != nil {
		e.Err = err
		return e, !errors.Is(err, fs.ErrNotExist)
	}
	e.Cert, e.Err = chain[0], known.admit(e.File, chain, now)
	return e, true
}

// Remaining is how long a certificate is still valid, in words.
func Remaining(c *x509.Certificate, now time.Time) string {
	left := c.NotAfter.Sub(now)
	for _, unit := range []struct {
		name string
		long time.Duration
	}{{"days", 24 * time.Hour}, {"hours", time.Hour}, {"minutes", time.Minute}} {
		if n := left / unit.long; n >= 2 {
			return fmt.Sprintf("%d %s", n, unit.name)
		}
	}
	if left < 0 {
		return "expired"
	}
	return "2 minutes at most"
}
