package m2n

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/m2n/m2ntest"
)

// authority signs the certificates of a cluster's nodes, which all have the same
// name: what the tests are about is who signed them.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

const nodeName = "node"

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert, key}
}

// config is a node's, for both roles.
func (a *authority) config(t testing.TB, change func(*x509.Certificate)) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: nodeName}, DNSNames: []string{nodeName},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if change != nil {
		change(&template)
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{MinVersion: tls.VersionTLS13, ServerName: nodeName, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// The clusters of the tests: nodes of one take none of the other.
var (
	testCluster  = sync.OnceValue(func() *tls.Config { return newAuthority(&mainTB{}).config(&mainTB{}, nil) })
	otherCluster = sync.OnceValue(func() *tls.Config { return newAuthority(&mainTB{}).config(&mainTB{}, nil) })
)

// mainTB stands for a test where what is made outlives each of them: it panics.
type mainTB struct{ testing.TB }

func (*mainTB) Helper()                           {}
func (*mainTB) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (*mainTB) FailNow()                          {}

// secured gives an endpoint the test cluster's certificate.
func secured(c *Config) { c.TLS = testCluster() }

// tlsDuo is two endpoints that know each other by TCP with TLS.
func tlsDuo(t testing.TB, change func(*Config)) (a, b *Endpoint) {
	return tcpDuo(t, func(c *Config) {
		secured(c)
		if change != nil {
			change(c)
		}
	})
}

// plainAndTLS runs a test with plain connections and with secured ones.
func plainAndTLS(t *testing.T, test func(t *testing.T, change func(*Config))) {
	t.Helper()
	t.Run("tcp", func(t *testing.T) { test(t, func(*Config) {}) })
	t.Run("tls", func(t *testing.T) { test(t, secured) })
}

func TestTLSCarriesWhatTCPDoes(t *testing.T) {
	a, b := tlsDuo(t, func(c *Config) { c.Connections = 3 })
	const messages, size = 20, 300_000
	for i := range uint64(messages) {
		region := a.Register(content("a", i, size), nil)
		_, err := a.Post("b", Message{Body: []Span{{region, 0, 100_000}, {region, 100_000, 200_000}}})
		require.NoError(t, err)
	}
	for i := range uint64(messages) {
		c := pollKind(t, b, Received)
		require.Equal(t, content("a", i, size)[:100_000], c.Body[0].Bytes())
		require.Equal(t, content("a", i, size)[100_000:], c.Body[1].Bytes())
		b.Release(c)
	}
	for range messages {
		require.NoError(t, pollKind(t, a, Sent).Err)
	}
	require.Equal(t, map[string]Traffic{"tcp": {messages, messages * size}}, b.Stats()[0].Received)
}

// TestCertificatesOfNoPeer: who is not of the cluster is refused at once, by the
// end that checks, and hears why; others are not touched.
func TestCertificatesOfNoPeer(t *testing.T) {
	home := newAuthority(t)
	none := home.config(t, nil)
	none.Certificates = nil
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	misnamed := func(c *x509.Certificate) { c.DNSNames = []string{"elsewhere"} }
	rootless := home.config(t, nil)
	rootless.RootCAs = otherCluster().RootCAs
	for _, tc := range []struct {
		name           string
		dials, listens *tls.Config
		want           string
	}{
		{"the peer is of another cluster", home.config(t, nil), otherCluster(), "certificate signed by unknown authority"},
		{"the peer's has expired", home.config(t, nil), home.config(t, expired), "certificate has expired"},
		{"the peer's is of another node", home.config(t, nil), home.config(t, misnamed), "certificate is valid for elsewhere, not node"},
		{"this end trusts another cluster", rootless, home.config(t, nil), "certificate signed by unknown authority"},
		{"this end is of another cluster", foreign(otherCluster(), home.config(t, nil)), home.config(t, nil), "remote error: tls: unknown certificate authority"},
		{"this end's has expired", home.config(t, expired), home.config(t, nil), "remote error: tls: expired certificate"},
		{"this end has none", none, home.config(t, nil), "remote error: tls: certificate required"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			requireRefusedByTLS(t, tc.dials, tc.listens, tc.want)
		})
	}
}

// foreign has the certificate of one cluster, and trusts another.
func foreign(own, trusted *tls.Config) *tls.Config {
	c := trusted.Clone()
	c.Certificates = own.Certificates
	return c
}

// requireRefusedByTLS dials b from a, both of which have a peer c by plain memory
// beside that.
func requireRefusedByTLS(t *testing.T, dials, listens *tls.Config, want string) {
	t.Helper()
	network := NewNetwork()
	member := func(id string, c *tls.Config) *Endpoint {
		e := endpoint(t, Config{ID: id, Network: network, TLS: c, DialTimeout: 2 * atLast})
		listen(t, e, "inproc:"+id)
		return e
	}
	a, b, c := member("a", dials), member("b", listens), member("c", nil)
	require.NoError(t, a.SetPeer("b", listen(t, b, "tcp:127.0.0.1:0"), 0))
	require.NoError(t, b.SetPeer("a", "", 0))
	for _, e := range []*Endpoint{a, b} {
		require.NoError(t, e.SetPeer("c", "inproc:c", 0))
		require.NoError(t, c.SetPeer(e.cfg.ID, "", 0))
		go func() { _, _ = e.Post("c", Message{}) }()
		c.Release(pollKind(t, c, Received))
		require.NoError(t, pollKind(t, e, Sent).Err)
	}
	begin := time.Now()
	_, err := a.Post("b", Message{})
	require.NoError(t, err)
	require.ErrorContains(t, pollKind(t, a, Sent).Err, want)
	lost := pollKind(t, a, Lost)
	require.ErrorContains(t, lost.Err, want)
	require.ErrorContains(t, lost.Err, `peer "b" (epoch 0) is lost: connecting to tcp:127.0.0.1:`)
	require.Less(t, time.Since(begin), atLast, "a refusal is final")
	require.Equal(t, "idle", b.Stats()[0].State)
	for _, e := range []*Endpoint{a, b} {
		_, err := e.Post("c", Message{})
		require.NoError(t, err)
		c.Release(pollKind(t, c, Received))
		require.NoError(t, pollKind(t, e, Sent).Err)
	}
}

func TestVerificationErrorsKeepTheirType(t *testing.T) {
	a, _ := tcpDuo(t, func(c *Config) {
		c.TLS = testCluster()
		if c.ID == "b" {
			c.TLS = otherCluster()
		}
	})
	_, err := a.Post("b", Message{})
	require.NoError(t, err)
	sent := pollKind(t, a, Sent)
	require.ErrorAs(t, sent.Err, new(*tls.CertificateVerificationError))
	require.ErrorAs(t, sent.Err, new(x509.UnknownAuthorityError))
}

// TestPlainMeetsTLS: one end has TLS, the other none. Both ways that is named
// within DialTimeout.
func TestPlainMeetsTLS(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, secured, want string
	}{
		{"plain dials TLS", "b", `"b" takes connections by TLS only, this one is plain`},
		{"TLS dials plain", "a", `"a" takes connections by TLS only, this one is plain`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := tcpDuo(t, func(c *Config) {
				c.DialTimeout = slowness * time.Second
				if c.ID == tc.secured {
					secured(c)
				}
			})
			require.NoError(t, b.SetPeer("a", "", 2), "b does not dial")
			begin := time.Now()
			_, err := a.Post("b", Message{})
			require.NoError(t, err)
			require.ErrorContains(t, pollKind(t, a, Sent).Err, tc.want)
			lost := pollKind(t, a, Lost)
			require.Less(t, time.Since(begin), atLast)
			require.ErrorContains(t, lost.Err, tc.want)
			require.ErrorIs(t, lost.Err, ErrRefused)
		})
	}
}

// TestTLSHandshakeThatStalls: whoever falls silent during it, the other end's
// deadline holds.
func TestTLSHandshakeThatStalls(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	a := endpoint(t, Config{ID: "a", TLS: testCluster(), DialTimeout: slowness * 300 * time.Millisecond})
	require.NoError(t, a.SetPeer("b", "tcp:"+l.Addr().String(), 0))
	begin := time.Now()
	_, err = a.Post("b", Message{})
	require.NoError(t, err)
	var timeout net.Error // the context's or the connection's, whichever is told of first
	require.ErrorAs(t, pollKind(t, a, Sent).Err, &timeout)
	require.True(t, timeout.Timeout())
	pollKind(t, a, Lost)
	require.Less(t, time.Since(begin), atLast)

	conn, err := net.Dial("tcp", strings.TrimPrefix(listen(t, a, "tcp:127.0.0.1:0"), "tcp:"))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(atLast)))
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the endpoint hangs up")
}

// TestCloseDoesNotWaitForAStalledTLSPeer: what TLS would say on parting has no room.
func TestCloseDoesNotWaitForAStalledTLSPeer(t *testing.T) {
	t.Parallel()
	p := newProxied(t, func(c *Config) { secured(c); c.SlotBytes = 64 << 20; c.Slots = 2 })
	p.proxy.Set(m2ntest.ToTarget, m2ntest.Stall)
	region := p.a.Register(make([]byte, 64<<20), nil)
	_, err := p.a.Post("b", Message{Body: []Span{{region, 0, 64 << 20}}})
	require.NoError(t, err)
	time.Sleep(testTimeout / 4)
	begin := time.Now()
	if err := p.a.Close(t.Context()); err != nil { // the pair may have been lost before
		require.EqualError(t, err, `peer "b": 1 messages are not out: context deadline exceeded`)
	}
	require.Less(t, time.Since(begin), inTime)
	require.Error(t, pollKind(t, p.a, Sent).Err)
}

// damaged is a TLS connection of which something bad has been read.
type damaged struct{ net.Conn }

func (damaged) Write([]byte) (int, error) {
	return 0, &net.OpError{Op: "local error", Err: errors.New("tls: bad record MAC")}
}

// TestDamageThatAWriteTellsOf: whichever goroutine comes first names the same cause.
func TestDamageThatAWriteTellsOf(t *testing.T) {
	_, err := newStreamConn(nil, damaged{}).write([][]byte{{1}})
	require.ErrorIs(t, broken(err), ErrBadFrame)
}
