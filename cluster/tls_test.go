package cluster

import (
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/certs"
)

// member makes the TLS identity of a member of a new cluster.
func member(t *testing.T) *certs.Identity {
	t.Helper()
	f := certs.Folder(filepath.Join(t.TempDir(), "certs"))
	_, err := f.Init(time.Now(), false)
	require.NoError(t, err)
	files, err := f.Issue(certs.Request{Name: "a", NotAfter: time.Now().Add(time.Hour)}, time.Now(), false)
	require.NoError(t, err)
	i, err := certs.Load(files, time.Now())
	require.NoError(t, err)
	return i
}

// secureFront starts a front end with TLS and returns its address.
func secureFront(t *testing.T, i *certs.Identity) string {
	t.Helper()
	control := NewServer(identity, settings, time.Second)
	_, handler := control.Handler()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{Handler: handler, Protocols: Protocols(), ConnContext: ConnContext,
		ReadHeaderTimeout: time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ListenTLS(control.Bounded(l), i.TLS())) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-ended, http.ErrServerClosed)
	})
	return l.Addr().String()
}

// joins tries to join a front end.
func joins(t *testing.T, url string, i *certs.Identity) error {
	t.Helper()
	return joinsAs(t, url, i, identity)
}

// joinsAs tries to join a front end with an identity.
func joinsAs(t *testing.T, url string, i *certs.Identity, id Identity) error {
	t.Helper()
	client := NewHTTPClient(time.Second, i.TLS())
	defer client.CloseIdleConnections()
	s, err := Join(t.Context(), client, url, Hello{Role: Expert, Addr: "tcp:127.0.0.1:7001", Identity: id,
		Place: AnyPlace}, 5*time.Second)
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Next(t.Context())
	return err
}

// TestTLS: members are admitted; a node that speaks without TLS or belongs to another
// cluster is told why it is not.
func TestTLS(t *testing.T) {
	i := member(t)
	addr := secureFront(t, i)
	require.NoError(t, joins(t, "https://"+addr, i))
	require.ErrorContains(t, joinsAs(t, "https://"+addr, i, Identity{Version: "v2"}),
		"version: the cluster has v1, the node v2")
	require.ErrorIs(t, joins(t, "http://"+addr, nil), ErrPlain)
	other := joins(t, "https://"+addr, member(t))
	require.ErrorContains(t, other, "certificate signed by unknown authority")
	require.True(t, certs.Refused(other))
}

// TestTLSWithAPlainFrontEnd: the error says that the front end has no TLS.
func TestTLSWithAPlainFrontEnd(t *testing.T) {
	_, url := front(t, time.Second)
	secured := "https" + url[len("http"):]
	require.ErrorIs(t, joins(t, secured, member(t)), http.ErrSchemeMismatch)
}
