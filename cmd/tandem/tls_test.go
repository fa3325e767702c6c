package main

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMemberInsteadOfFolder: who names a member where its folder is wanted is
// told the folder.
func TestMemberInsteadOfFolder(t *testing.T) {
	t.Chdir(filepath.Dir(authority(t, "front")))
	log := slog.New(slog.DiscardHandler)
	_, err := (&tlsFlags{TLS: "front"}).identity(log)
	require.ErrorContains(t, err, "did you mean --tls "+filepath.Join("certs", "front")+"?")
	_, err = (&tlsFlags{TLS: "back"}).identity(log)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "did you mean")
	i, err := (&tlsFlags{TLS: filepath.Join("certs", "front")}).identity(log)
	require.NoError(t, err)
	require.Equal(t, "front", i.Leaf().Subject.CommonName)
}
