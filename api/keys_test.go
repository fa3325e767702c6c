package api

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestKnownKey compares whole keys; white space around them is nobody's, and no
// server has an empty one.
func TestKnownKey(t *testing.T) {
	s := NewServer(Config{APIKeys: []string{"secret\n", "other key", ""}})
	for header, want := range map[string]bool{
		"Bearer secret": true, "bearer  secret ": true, "Bearer other key": true,
		"Bearer secre": false, "Bearer secrets": false, "Bearer ": false, "Bearer": false, "": false,
		"Basic secret": false, "secret": false,
	} {
		require.Equal(t, want, s.knownKey(header), "%q", header)
	}
}
