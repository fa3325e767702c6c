package deploy_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/kernel/kerneltest"
	"github.com/tandem-moe/tandem/serve/node"
)

// deviceKind is a kind of device that computes the same bits as the CPU device.
type deviceKind string

const (
	atOnce   deviceKind = "at once"
	async    deviceKind = "async"
	discrete deviceKind = "discrete" // async, with memory that the host cannot address

	// expertsOnly and unshared are for expert nodes: discrete, with the methods of a
	// kernel.ExpertDevice alone. unshared adopts no memory of the host besides.
	expertsOnly deviceKind = "experts only"
	unshared    deviceKind = "experts only, unshared"
)

// over makes a device of the kind.
func (k deviceKind) over(dev kernel.Device) kernel.ExpertDevice {
	switch k {
	case async:
		return kerneltest.NewAsync(dev)
	case discrete:
		return kerneltest.NewDiscrete(dev)
	case expertsOnly:
		return kerneltest.ExpertsOnly(kerneltest.NewDiscrete(dev))
	case unshared:
		return kerneltest.ExpertsOnly(kerneltest.Without(kerneltest.NewDiscrete(dev), kernel.AdoptsMemory))
	}
	return dev
}

// created is the place of a node, "expert-1" or "attention-0", in the order of creation:
// expert nodes come first.
func (l layout) created(node string) int {
	role, number, _ := strings.Cut(node, "-")
	i, err := strconv.Atoi(number)
	if err != nil {
		panic(fmt.Sprintf("the node %q has no number", node))
	}
	if role == "attention" {
		i += l.experts
	}
	return i
}

// kind is the kind of a node's device.
func (l layout) kind(node string) deviceKind {
	i := l.created(node)
	if i < l.experts && l.alone[i%len(l.alone)] != "" {
		return l.alone[i%len(l.alone)]
	}
	return l.devices[i%len(l.devices)]
}

// between is the transport of the pair of two nodes. Of nodes that prefer shared memory,
// those whose devices do not adopt it use TCP.
func (l layout) between(a, b string) string {
	if l.transport != "shm" {
		return l.transport
	}
	if l.kind(a) == unshared || l.kind(b) == unshared {
		return "tcp"
	}
	return "shm"
}

// counts is the number of expert nodes with devices of a kind of their own.
func (l layout) counts(kind deviceKind) (n int) {
	for _, k := range l.alone {
		if k == kind {
			n++
		}
	}
	return n
}

// requireTransports checks that nodes exchanged bytes, and those of two nodes by the
// transport alone that want says.
func requireTransports(t *testing.T, stats []node.Stats, want func(a, b string) string) {
	t.Helper()
	used := 0
	for _, s := range stats {
		for _, p := range s.Peers {
			peer, _, _ := strings.Cut(p.Peer, ":")
			for transport, traffic := range p.Sent {
				require.Equal(t, want(s.Node, peer), transport, "%s to %s", s.Node, peer)
				require.Positive(t, traffic.Bytes, "%s to %s", s.Node, peer)
				used++
			}
		}
	}
	require.Positive(t, used, "pairs that exchanged messages")
}
