package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/rpc"
	"os/exec"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/serve/deploy"
	"github.com/tandem-moe/tandem/serve/node"
)

// processNodes are nodes in processes of their own; the front end is in this
// one, where it has little to do while the nodes work.
type processNodes struct {
	transport string
	control   *deploy.Control
	stop      context.CancelFunc
	serving   sync.WaitGroup
	all       []*nodeProcess // the attention node is the first

	run     statistics
	reached chan error // what became of noting the run's moments
}

// nodeProcess is a node's process, and the way to call it.
type nodeProcess struct {
	name  string
	cmd   *exec.Cmd
	calls *rpc.Client
	says  *tail
}

// call calls a method of the node's service.
func (p *nodeProcess) call(method string, argument, result any) error {
	if err := p.calls.Call(nodeName+"."+method, argument, result); err != nil {
		return fmt.Errorf("%s node, process %d: %w%s", p.name, p.cmd.Process.Pid, err, p.says)
	}
	return nil
}

// stats asks for the node's statistics.
func (p *nodeProcess) stats() (r NodeReport, err error) {
	err = p.call("Stats", none{}, &r)
	return r, err
}

// tail keeps the end of what a process says.
type tail struct {
	mu  sync.Mutex
	end []byte
}

const tailBytes = 4096

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, b...)
	t.end = t.end[max(0, len(t.end)-tailBytes):]
	return len(b), nil
}

// String is the end of an error about the process.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.end) == 0 {
		return ""
	}
	return "; it says:\n" + string(bytes.TrimSpace(t.end))
}

// startProcesses starts the layout's nodes in processes that a transport joins.
func (o *ServeOptions) startProcesses(ctx context.Context, transport string, sequences int) (*engine, error) {
	options := o.deployment(1, sequences)
	options.PeerTimeout = peerTimeout
	control, err := deploy.NewControl(o.Model, options, benchVersion)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	n := &processNodes{transport: transport, control: control, stop: stop}
	n.serving.Go(func() { _ = control.Serve(serving, l) })
	spec := nodeSpec{
		Control: "http://" + l.Addr().String(), Model: o.Folder, Transport: transport, ISA: o.ISA.String(), Threads: o.Threads,
		KVMemory: options.KVMemory, MaxNumSeqs: options.MaxNumSeqs, PageTokens: options.PageTokens,
	}
	if err := n.start(ctx, o, spec); err != nil {
		return nil, errors.Join(err, n.close())
	}
	if err := n.ready(ctx); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return &engine{front: control.Engine, nodes: n}, nil
}

// start starts the processes.
func (n *processNodes) start(ctx context.Context, o *ServeOptions, spec nodeSpec) error {
	for i := range 1 + o.Experts {
		spec.Role = cluster.Expert
		if i == 0 {
			spec.Role = cluster.Attention
		}
		p, err := startNode(ctx, o.Node, spec)
		if err != nil {
			return fmt.Errorf("starting the process of a %s node: %w", spec.Role, err)
		}
		n.all = append(n.all, p)
	}
	return nil
}

// goodbye bounds the time that a process takes to end once it is told to.
const goodbye = 10 * time.Second

func startNode(ctx context.Context, command []string, spec nodeSpec) (*nodeProcess, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	p := &nodeProcess{name: string(spec.Role), says: &tail{}}
	p.cmd = exec.CommandContext(ctx, command[0], append(command[1:len(command):len(command)], string(text))...)
	p.cmd.Stderr, p.cmd.WaitDelay = p.says, goodbye
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.calls = rpc.NewClient(struct {
		io.Reader
		io.WriteCloser
	}{out, in})
	return p, nil
}

// readyTimeout bounds the time until the nodes have loaded their weights.
const readyTimeout = 5 * time.Minute

// ready waits until the nodes can serve. A node that has ended is an error.
func (n *processNodes) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n.control.Missing() != "" {
		if _, err := n.stats(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nodes in processes of their own: %s: %w", n.control.Missing(), ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// stats asks all nodes for their statistics.
func (n *processNodes) stats() ([]node.Stats, error) {
	all, _, err := n.reports(n.all)
	return all, err
}

// reports asks nodes for their statistics and the sum of their processor time.
func (n *processNodes) reports(nodes []*nodeProcess) (all []node.Stats, cpu time.Duration, err error) {
	for _, p := range nodes {
		r, err := p.stats()
		if err != nil {
			return nil, 0, err
		}
		all, cpu = append(all, r.Stats), cpu+r.CPU
	}
	return all, cpu, nil
}

func (n *processNodes) attention() int { return 1 }

func (n *processNodes) arm(sequences int) (err error) {
	n.run = statistics{}
	if n.run.before, err = n.stats(); err != nil {
		return err
	}
	if err := n.all[0].call("Arm", sequences, &none{}); err != nil {
		return err
	}
	n.reached = make(chan error, 1)
	go func() { n.reached <- n.note() }()
	return nil
}

// note takes the statistics of all nodes at the run's moments: the attention
// node's own, the expert nodes' as soon as it tells, and then the processor time of
// this process, which has the front end.
func (n *processNodes) note() error {
	for m := range runMoments {
		var first NodeReport
		if err := n.all[0].call("Reached", int(m), &first); err != nil {
			return err
		}
		experts, cpu, err := n.reports(n.all[1:])
		if err != nil {
			return err
		}
		n.run.at[m] = append([]node.Stats{first.Stats}, experts...)
		n.run.cpu[m] = first.CPU + cpu + cpuTime()
	}
	return nil
}

func (n *processNodes) wait(ctx context.Context) error {
	held := n.all[0].calls.Go(nodeName+".Wait", none{}, &none{}, make(chan *rpc.Call, 1))
	select {
	case <-held.Done:
		return held.Error
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *processNodes) release() error { return n.all[0].call("Release", none{}, &none{}) }

func (n *processNodes) result(ctx context.Context) (*engineRun, error) {
	select {
	case err := <-n.reached:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var seen Observation
	if err := n.all[0].call("Result", none{}, &seen); err != nil {
		return nil, err
	}
	var err error
	if n.run.after, err = n.stats(); err != nil {
		return nil, err
	}
	if err := n.travelled(); err != nil {
		return nil, err
	}
	return n.run.run(trace{tokens: seen.Tokens, at: seen.At}, n.attention()), nil
}

// travelled checks that the run's rows went by the transport that is measured.
func (n *processNodes) travelled() error {
	for _, s := range n.run.after {
		for _, p := range s.Peers {
			if p.State == "up" && p.Transport != n.transport {
				return fmt.Errorf("%s and %s are joined by %s, not by %s: %s", s.Node, p.Peer, p.Transport, n.transport, p.Why)
			}
		}
	}
	return nil
}

// close ends the processes: the end of their input tells them to.
func (n *processNodes) close() error {
	for _, p := range n.all {
		_ = p.calls.Close() // the process may have ended
	}
	for _, p := range n.all {
		kill := time.AfterFunc(goodbye, func() { _ = p.cmd.Process.Kill() })
		_ = p.cmd.Wait() // what it had to say was said by its calls
		kill.Stop()
	}
	n.stop()
	n.serving.Wait()
	return nil
}
