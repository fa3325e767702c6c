package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/tandem-moe/tandem/certs"
	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// NodeCmd runs one node of a cluster.
type NodeCmd struct {
	Role      string   `help:"Part of each layer that the node computes: attention or expert." enum:"attention,expert" required:"" placeholder:"ROLE" group:"Cluster:"`
	Join      string   `help:"Where the front end admits nodes: its --control." required:"" placeholder:"HOST:PORT" group:"Cluster:"`
	Listen    string   `help:"Where other nodes reach this one; port 0 is a free one." default:"127.0.0.1:0" group:"Cluster:"`
	Advertise string   `help:"What other nodes are told instead, behind a NAT for instance." placeholder:"HOST[:PORT]" group:"Cluster:"`
	Transport string   `help:"How other nodes reach this one: shm+tcp (shared memory on one host, else TCP), tcp, shm, or ucx+tcp and shm+ucx+tcp (RDMA by UCX, where it is built in)." enum:"shm+tcp,tcp,shm,ucx+tcp,shm+ucx+tcp" default:"shm+tcp" group:"Cluster:"`
	Grace     duration `help:"On SIGTERM, longest that the node stays for running requests; 0: it leaves at once." default:"30s" group:"Cluster:"`
	Wait      duration `help:"Attention node: longest that its requests wait where an expert node is lost, until another takes its place; 0: they end at once, with an error." name:"expert-wait" default:"2m" placeholder:"TIME" group:"Cluster:"`
	Metrics   string   `help:"Serve /metrics, /health and /debug/m2n of this node. Default: not." placeholder:"HOST:PORT" group:"Cluster:"`

	tlsFlags `group:"Cluster:"`
	Wire     *kernel.RowFormat `help:"Join only a cluster in which rows travel so: f32, bf16 or int8. Default: join any." group:"Cluster:"`
	Combine  *route.Combine    `help:"Join only a cluster that combines results so: expert or partial. Default: join any." group:"Cluster:"`

	modelFlags `group:"Model:"`
	nodeFlags  `group:"Node:"`
}

// Help is the end of the command's help.
func (*NodeCmd) Help() string {
	return `The node loads its part of the model only, and works until SIGTERM. Then it takes
no new requests, stays until those that need it have ended, and leaves; a second
signal ends it at once. What all nodes share, such as --max-model-len and --wire,
the front end tells them. See "tandem serve --help" for an example.`
}

// options are the flags of a node.
func (c *NodeCmd) options(role cluster.Role, identity *certs.Identity) deploy.NodeOptions {
	o := deploy.NodeOptions{
		Options: deploy.Options{TLS: identity, Transport: c.Transport}, Role: role, Control: scheme(identity) + c.Join,
		Listen: c.Listen, Advertise: c.Advertise, Version: version, Grace: time.Duration(c.Grace),
	}
	c.addTo(&o.Options)
	if o.ExpertWait = time.Duration(c.Wait); c.Wait == 0 {
		o.ExpertWait = -1 // 0 is the default's
	}
	if c.Wire != nil {
		o.WantWire = c.Wire.String()
	}
	if c.Combine != nil {
		o.WantCombine = c.Combine.String()
	}
	return o
}

// Run works for the cluster until ctx ends, and then drains.
func (c *NodeCmd) Run(ctx context.Context, log *slog.Logger, s *screen) error {
	outliveLogReaders()
	role, err := cluster.ParseRole(c.Role)
	if err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(c.Join); err != nil {
		return fmt.Errorf("--join: %w", err)
	}
	if err := deploy.CheckAddresses(c.Listen, c.Advertise); err != nil {
		return err
	}
	identity, err := c.identity(log)
	if err != nil {
		return err
	}
	m, err := deploy.OpenModel(c.Model)
	if err != nil {
		return err
	}
	defer m.Checkpoint.Close()
	bar := s.progress("loading " + m.Name)
	defer bar.done()
	o := c.options(role, identity)
	o.Log, o.Progress = log, bar.report
	node, err := deploy.NewNode(m, o)
	if err != nil {
		return err
	}
	return errors.Join(c.work(ctx, log, m, node), node.Close())
}
