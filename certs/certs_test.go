package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tandem-moe/tandem/certs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// folder is that of an authority since yesterday, in a temporary place.
func folder(t *testing.T) certs.Folder {
	t.Helper()
	f := certs.Folder(filepath.Join(t.TempDir(), "certs"))
	_, err := f.Init(time.Now().AddDate(0, 0, -1), false)
	require.NoError(t, err)
	return f
}

// issue makes the files of a member, valid for an hour from a time.
func issue(t *testing.T, f certs.Folder, name string, at time.Time) certs.Files {
	t.Helper()
	files, err := f.Issue(certs.Request{Name: name, NotAfter: at.Add(time.Hour)}, at, false)
	require.NoError(t, err)
	return files
}

// member is one of a cluster, as it was loaded at a time when it was valid.
func member(t *testing.T, f certs.Folder, name string, at time.Time) *certs.Identity {
	t.Helper()
	i, err := certs.Load(issue(t, f, name, at), at)
	require.NoError(t, err)
	return i
}

// meet connects two ends, and returns what each one finds wrong, explained by
// its identity.
func meet(t *testing.T, dials, accepts func(net.Conn) error) (dialler, acceptor error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	accepted := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			err = bounded(conn, accepts)
		}
		accepted <- err
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	return bounded(conn, dials), <-accepted
}

// bounded lets an end use a connection for a while and closes it.
func bounded(conn net.Conn, use func(net.Conn) error) error {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return use(conn)
}

// dialler sends a byte and waits for one, so that it hears of a refusal.
func dialler(i *certs.Identity) func(net.Conn) error {
	return func(conn net.Conn) error {
		secured := tls.Client(conn, i.TLS())
		_, err := secured.Write([]byte{1})
		if err == nil {
			_, err = io.ReadFull(secured, make([]byte, 1))
		}
		return i.Explain(err)
	}
}

func acceptor(i *certs.Identity) func(net.Conn) error {
	return func(conn net.Conn) error {
		secured := tls.Server(conn, i.TLS())
		_, err := io.ReadFull(secured, make([]byte, 1))
		if err == nil {
			_, err = secured.Write([]byte{2})
		}
		return i.Explain(err)
	}
}

// TestMembersKnowEachOther, whichever dials, at an address that no certificate
// names, by TLS 1.3.
func TestMembersKnowEachOther(t *testing.T) {
	f := folder(t)
	a, b := member(t, f, "a", time.Now()), member(t, f, "b", time.Now())
	for _, ends := range [][2]*certs.Identity{{a, b}, {b, a}, {a, a}} {
		var state tls.ConnectionState
		dialled, accepted := meet(t, dialler(ends[0]), func(conn net.Conn) error {
			secured := tls.Server(conn, ends[1].TLS())
			err := secured.Handshake()
			state = secured.ConnectionState()
			if err == nil {
				_, err = secured.Write([]byte{2})
			}
			return err
		})
		require.NoError(t, dialled)
		require.NoError(t, accepted)
		require.EqualValues(t, tls.VersionTLS13, state.Version)
		require.Equal(t, ends[0].Leaf().Raw, state.PeerCertificates[0].Raw)
	}
}

// TestOtherAuthority: each end names its own file, and whom the other trusts.
func TestOtherAuthority(t *testing.T) {
	ours, theirs := folder(t), folder(t)
	a, b := member(t, ours, "a", time.Now()), member(t, theirs, "b", time.Now())
	dialled, accepted := meet(t, dialler(b), acceptor(a))
	require.ErrorContains(t, dialled, "certificate signed by unknown authority")
	require.ErrorContains(t, dialled, `that of "a" (key `)
	require.ErrorContains(t, dialled, a.Leaf().Issuer.CommonName)
	require.ErrorContains(t, dialled, b.Leaf().Issuer.CommonName)
	require.ErrorContains(t, dialled, b.CA)
	require.True(t, certs.Refused(dialled))
	require.ErrorContains(t, accepted, "the peer refuses this end, whose certificate "+a.Cert)
	require.ErrorContains(t, accepted, `that of "a" (key `)
	require.True(t, certs.Refused(accepted))
}

// TestUnknownToTheOther: an end that trusts both authorities hears that its own
// certificate is the problem.
func TestUnknownToTheOther(t *testing.T) {
	ours, theirs := folder(t), folder(t)
	a := member(t, ours, "a", time.Now())
	files := issue(t, theirs, "b", time.Now())
	joined(t, files.CA, ours.CertFile())
	b, err := certs.Load(files, time.Now())
	require.NoError(t, err, "an authority that is being replaced")
	dialled, accepted := meet(t, dialler(b), acceptor(a))
	require.ErrorContains(t, dialled, "unknown certificate authority")
	require.ErrorContains(t, dialled, "the peer refuses this end, whose certificate "+b.Cert)
	require.ErrorContains(t, accepted, "certificate signed by unknown authority")
	require.ErrorContains(t, accepted, `the peer's certificate, that of "b"`)
	require.ErrorContains(t, accepted, a.CA)
}

// joined appends a file to another.
func joined(t *testing.T, name, other string) {
	t.Helper()
	first, err := os.ReadFile(name)
	require.NoError(t, err)
	second, err := os.ReadFile(other)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(name, append(first, second...), 0o600))
}

// TestExpiredPeer: a member that outlives its certificate is refused, in either
// role, and both ends say so.
func TestExpiredPeer(t *testing.T) {
	f := folder(t)
	valid, expired := member(t, f, "a", time.Now()), member(t, f, "b", time.Now().Add(-90*time.Minute))
	dialled, accepted := meet(t, dialler(expired), acceptor(valid))
	require.ErrorContains(t, accepted, `that of "b"`)
	require.ErrorContains(t, accepted, "by this end's clock")
	require.ErrorContains(t, dialled, "the peer refuses this end, whose certificate "+expired.Cert)
	dialled, accepted = meet(t, dialler(valid), acceptor(expired))
	require.ErrorContains(t, dialled, `that of "b"`)
	require.ErrorContains(t, dialled, "by this end's clock")
	require.ErrorContains(t, accepted, expired.Cert)
}

// TestStranger: who speaks without TLS, without a certificate or by an older
// version is refused.
func TestStranger(t *testing.T) {
	i := member(t, folder(t), "a", time.Now())
	_, accepted := meet(t, func(conn net.Conn) error {
		_, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		return err
	}, acceptor(i))
	require.ErrorContains(t, accepted, "the peer speaks without TLS")

	dialled, _ := meet(t, dialler(i), func(conn net.Conn) error {
		_, err := conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		return err
	})
	require.ErrorContains(t, dialled, "the peer speaks without TLS, this end with "+i.Cert)

	for name, change := range map[string]func(*tls.Config){
		"certificate": func(c *tls.Config) {
			c.GetClientCertificate = nil
		},
		"version": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
	} {
		_, accepted := meet(t, func(conn net.Conn) error {
			config := i.TLS().Clone()
			change(config)
			secured := tls.Client(conn, config)
			if err := secured.Handshake(); err != nil {
				return err
			}
			_, err := secured.Read(make([]byte, 1))
			return err
		}, acceptor(i))
		require.ErrorContains(t, accepted, name)
	}
}

// TestCertificateForOtherThings: of the same authority, but not a member's.
func TestCertificateForOtherThings(t *testing.T) {
	f := folder(t)
	a := member(t, f, "a", time.Now())
	authority, err := f.Authority(time.Now())
	require.NoError(t, err)
	other := certs.ForTest(t, authority, func(c *x509.Certificate) { c.DNSNames = []string{"www.example.org"} })
	pool := x509.NewCertPool()
	pool.AddCert(authority.Cert)
	stranger := &tls.Config{Certificates: []tls.Certificate{other}, RootCAs: pool, ServerName: certs.ClusterName,
		MinVersion: tls.VersionTLS13}
	_, accepted := meet(t, func(conn net.Conn) error {
		_, err := tls.Client(conn, stranger).Read(make([]byte, 1))
		return err
	}, acceptor(a))
	require.ErrorContains(t, accepted, "www.example.org, not "+certs.ClusterName)
	dialled, _ := meet(t, dialler(a), func(conn net.Conn) error {
		return tls.Server(conn, stranger).Handshake()
	})
	require.ErrorContains(t, dialled, "www.example.org")
	require.ErrorContains(t, dialled, certs.ClusterName)
	require.True(t, certs.Refused(dialled))
}

// TestNobody: without an identity there is no TLS, and nothing to explain.
func TestNobody(t *testing.T) {
	var nobody *certs.Identity
	require.Nil(t, nobody.TLS())
	require.ErrorIs(t, nobody.Explain(io.EOF), io.EOF)
	require.NoError(t, nobody.Valid(time.Now()))
	i := member(t, folder(t), "a", time.Now())
	require.NoError(t, i.Explain(nil))
	require.Equal(t, io.EOF, i.Explain(io.EOF))
	require.False(t, certs.Refused(io.EOF))
}
