package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tandem-moe/tandem/certs"
)

// tlsFlags say who the process is among the members of a cluster with TLS.
type tlsFlags struct {
	TLS     string `help:"Secure the cluster by TLS 1.3, both ends verified: folder with ca.crt, tls.crt and tls.key, as \"tandem certs issue\" makes it. All of the cluster have one. Default: no TLS." name:"tls" placeholder:"DIR"`
	TLSCA   string `help:"File with the certificate of the cluster's authority, instead of ca.crt in --tls." name:"tls-ca" placeholder:"FILE"`
	TLSCert string `help:"File with this member's certificate, instead of tls.crt in --tls." name:"tls-cert" placeholder:"FILE"`
	TLSKey  string `help:"File with this member's private key, instead of tls.key in --tls." name:"tls-key" placeholder:"FILE"`
}

// files are those that the flags name; false where they name none.
func (f *tlsFlags) files() (certs.Files, bool) {
	var files certs.Files
	if f.TLS != "" {
		files = certs.InFolder(f.TLS)
	}
	for _, o := range f.each(&files) {
		if o.flag != "" {
			*o.file = o.flag
		}
	}
	return files, files != certs.Files{}
}

// fileFlag is a flag that names a file.
type fileFlag struct {
	name, flag string
	file       *string
}

func (f *tlsFlags) each(files *certs.Files) []fileFlag {
	return []fileFlag{{"--tls-ca", f.TLSCA, &files.CA}, {"--tls-cert", f.TLSCert, &files.Cert},
		{"--tls-key", f.TLSKey, &files.Key}}
}

// soon is when an expiry is near enough for a warning.
const soon = 30 * 24 * time.Hour

// identity loads what the flags name; nil where they name nothing.
func (f *tlsFlags) identity(log *slog.Logger) (*certs.Identity, error) {
	files, any := f.files()
	if !any {
		return nil, nil
	}
	var missing []string
	for _, o := range f.each(&files) {
		if *o.file == "" {
			missing = append(missing, o.name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("TLS needs --tls, or --tls-ca, --tls-cert and --tls-key: %s is missing",
			strings.Join(missing, " and "))
	}
	now := time.Now()
	i, err := certs.Load(files, now)
	if err != nil {
		return nil, fmt.Errorf("TLS: %w%s", err, f.hint())
	}
	say, leaf := log.Info, i.Leaf()
	if leaf.NotAfter.Sub(now) < soon {
		say = log.Warn
	}
	say("the cluster is secured by TLS", "member", leaf.Subject.CommonName, "certificate", i.Cert, "remains",
		certs.Remaining(leaf, now))
	return i, nil
}

// hint is for who names a member where its folder is wanted.
func (f *tlsFlags) hint() string {
	if in := filepath.Join("certs", f.TLS); f.TLS != "" && !isFolder(f.TLS) && isFolder(in) {
		return fmt.Sprintf(": did you mean --tls %s?", in)
	}
	return ""
}

func isFolder(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// scheme is that of the front end's URL.
func scheme(i *certs.Identity) string {
	if i == nil {
		return "http://"
	}
	return "https://"
}
