package deploy

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/m2n"
)

// TestOneBadAddressIsNoReasonToLeave: a node that cannot use one member's address logs
// that and can reach the others.
func TestOneBadAddressIsNoReasonToLeave(t *testing.T) {
	var log bytes.Buffer
	m := &membership{Node: &Node{NodeOptions: NodeOptions{Options: Options{Log: slog.New(slog.NewTextHandler(&log, nil))}}}}
	ep, err := m2n.NewEndpoint(m2n.Config{ID: "expert-0", Slots: 1, SlotBytes: 64})
	require.NoError(t, err)
	defer func() { require.NoError(t, closeEndpoint(ep)) }()
	m.introduce(ep, cluster.View{Members: []cluster.Member{
		{ID: "attention-0", Role: cluster.Attention, Addr: "garbage\x1b[2J", Epoch: 1},
		{ID: "attention-1", Role: cluster.Attention, Addr: "tcp:127.0.0.1:1", Epoch: 2},
	}})
	require.Len(t, ep.Stats(), 1)
	require.Equal(t, "attention-1", ep.Stats()[0].Peer)
	require.Contains(t, log.String(), "a member cannot be reached")
	require.NotContains(t, log.String(), "\x1b")
}
