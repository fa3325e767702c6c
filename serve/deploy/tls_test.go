package deploy_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/certs"
	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// identity makes the TLS identity of a member of a new cluster, valid for an hour from a
// time on.
func identity(t *testing.T, at time.Time) *certs.Identity {
	t.Helper()
	f := certs.Folder(filepath.Join(t.TempDir(), "certs"))
	_, err := f.Init(at, false)
	require.NoError(t, err)
	files, err := f.Issue(certs.Request{Name: "node", NotAfter: at.Add(time.Hour)}, at, false)
	require.NoError(t, err)
	i, err := certs.Load(files, at)
	require.NoError(t, err)
	return i
}

// TestTLSGivesTheSameBits: a cluster with TLS gives the answers of a deployment without.
func TestTLSGivesTheSameBits(t *testing.T) {
	dir := models(t)[0]
	m, err := deploy.OpenModel(dir)
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	list := requests(m.Spec.Vocabulary)
	l := drawLayout(1, len(list))
	l.transport, l.attention, l.experts = "tcp", 1, 2
	want, _ := l.run(t, m)
	o := l.options(m)
	o.TLS = identity(t, time.Now())
	secured := start(t, dir, o)
	for i, r := range list {
		got, err := ask(bounded(t), secured.Engine, r)
		require.NoError(t, err)
		require.Equal(t, want[i].bits(), got.bits())
	}
}

// TestExpiredNodeEnds: a node whose certificate has expired while it worked does not try
// to join again, but ends with the name of the file.
func TestExpiredNodeEnds(t *testing.T) {
	m, err := deploy.OpenModel("")
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	o := nodeOptions()
	o.TLS = identity(t, time.Now().Add(-2*time.Hour))
	err = work(t.Context(), m, deploy.NodeOptions{
		Options: o, Role: cluster.Expert, Control: "https://" + freeAddr(t), Listen: "127.0.0.1:0", Version: "test",
	})
	require.ErrorIs(t, err, certs.ErrExpired)
	require.ErrorContains(t, err, o.TLS.Cert)
}
