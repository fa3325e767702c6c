package main

import (
	"context"
	"log/slog"
	"os"
	"strings"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// NodeCmd runs one node of a cluster.
type NodeCmd struct {
	modelFlags
	sizeFlags
	Role      string `help:"attention or expert." enum:"attention,expert" required:""`
	Join      string `help:"Where the front end's --control listens." required:"" placeholder:"HOST:PORT"`
	Listen    string `help:"Where other nodes reach this one." default:"127.0.0.1:0" placeholder:"HOST:PORT"`
	Advertise string `help:"Host, or host and port, that other nodes are told, where it is not that of --listen." placeholder:"HOST[:PORT]"`
}

// Run works for the cluster until ctx ends.
func (c *NodeCmd) Run(ctx context.Context, log *slog.Logger) error {
	role, err := cluster.ParseRole(c.Role)
	if err != nil {
		return err
	}
	m, err := deploy.OpenModel(c.Model)
	if err != nil {
		return err
	}
	defer m.Checkpoint.Close()
	url := c.Join
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	bar := newProgress(os.Stderr, "loading "+m.Name)
	o := deploy.NodeOptions{
		Options: c.options(log), Role: role, Control: url,
		Listen: c.Listen, Advertise: c.Advertise, Version: version,
	}
	o.Progress = bar.report
	o.Joined = func(cluster.Member) { bar.done() }
	return deploy.RunNode(ctx, m, o)
}
