package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/rpc"
	"time"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/serve/deploy"
	"github.com/tandem-moe/tandem/serve/node"
)

// nodeSpec says which node a process is.
type nodeSpec struct {
	Role      cluster.Role
	Control   string // the front end's URL
	Model     string // folder; empty: the embedded model
	Transport string // to peers: shm or tcp
	ISA       string
	Threads   int
	// What follows is an attention node's.
	KVMemory               int64
	MaxNumSeqs, PageTokens int
}

// benchVersion is what the nodes of a measurement say that they are.
const benchVersion = "bench"

// peerTimeout is long: the machine may be busy, and a node that is lost is an
// error of the measurement.
const peerTimeout = 20 * time.Second

// ServeNode is a node in a process of its own, which Serve has started with these
// arguments. It is told by calls on in what to do beside serving, answers on out,
// and works until in ends.
func ServeNode(ctx context.Context, spec string, in io.Reader, out io.Writer, log *slog.Logger) error {
	var s nodeSpec
	if err := json.Unmarshal([]byte(spec), &s); err != nil {
		return fmt.Errorf("bench serve: which node this is: %w", err)
	}
	m, err := deploy.OpenModel(s.Model)
	if err != nil {
		return err
	}
	defer m.Checkpoint.Close()
	service := &nodeService{}
	service.stats = func() []node.Stats { return []node.Stats{service.node.Stats()} }
	o, err := s.options(&service.observed)
	if err != nil {
		return err
	}
	o.Log = log
	if service.node, err = deploy.NewNode(m, o); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	service.ended = ctx.Done()
	defer context.AfterFunc(ctx, service.release)() // nobody will ask for it any more
	server := rpc.NewServer()
	if err := server.RegisterName(nodeName, service); err != nil {
		panic(err)
	}
	go func() {
		defer cancel()
		server.ServeConn(duplex{in, out})
	}()
	return errors.Join(service.node.Run(ctx), service.node.Close())
}

// options are the node's, which observed holds and watches.
func (s *nodeSpec) options(o *observed) (deploy.NodeOptions, error) {
	var isa kernel.ISA
	if err := isa.UnmarshalText([]byte(s.ISA)); err != nil {
		return deploy.NodeOptions{}, err
	}
	return deploy.NodeOptions{
		Role: s.Role, Control: s.Control, Listen: "127.0.0.1:0", Version: benchVersion,
		Options: deploy.Options{
			Threads: s.Threads, KVMemory: s.KVMemory, MaxNumSeqs: s.MaxNumSeqs, PageTokens: s.PageTokens,
			Transport: s.Transport, PeerTimeout: peerTimeout, Observe: o.observe,
			Device: func(_ string, pool *kernel.Pool) (kernel.ExpertDevice, error) {
				dev, err := kernel.NewCPU(kernel.CPUOptions{ISA: isa, Pool: pool, Threads: s.Threads})
				if err != nil || s.Role != cluster.Attention {
					return dev, err
				}
				return o.hold(dev), nil
			},
		},
	}, nil
}

// duplex is a process's standard input and output as a connection.
type duplex struct {
	io.Reader
	io.Writer
}

// Close does nothing: the streams are the process's.
func (duplex) Close() error { return nil }

// nodeName is the service's.
const nodeName = "Node"

// nodeService is what a node's process can be told. Its methods have the form
// that net/rpc wants.
type nodeService struct {
	observed
	node      *deploy.Node
	ended     <-chan struct{} // closed when the process is to end
	sequences int             // of the run
}

// none stands for no argument or no result.
type none = struct{}

// Observation is what an attention node saw of a run: its output tokens, and when
// each appeared.
type Observation struct {
	Tokens [][]int32
	At     [][]time.Duration
}

// NodeReport is a node's statistics, and the processor time of its process.
type NodeReport struct {
	Stats node.Stats
	CPU   time.Duration
}

// Stats tells what the node has done.
func (s *nodeService) Stats(_ none, r *NodeReport) error {
	*r = NodeReport{s.node.Stats(), cpuTime()}
	return nil
}

// Arm begins to watch a run of so many sequences, and holds the next step.
func (s *nodeService) Arm(sequences int, _ *none) error {
	s.sequences = sequences
	s.arm(sequences)
	return nil
}

// Wait returns when a step is held.
func (s *nodeService) Wait(_ none, _ *none) error { return s.wait(context.Background()) }

// Release lets the step go on once all the run's sequences wait for the next one.
// They come by another way than this call.
func (s *nodeService) Release(_ none, _ *none) error {
	defer s.release()
	late := time.After(holdTimeout)
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for s.node.Stats().Waiting < s.sequences {
		select {
		case <-look.C:
		case <-s.ended:
			return errors.New("the node is ending")
		case <-late:
			return fmt.Errorf("%d of %d sequences are here after %v", s.node.Stats().Waiting, s.sequences, holdTimeout)
		}
	}
	return nil
}

// runTimeout bounds the wait for a moment of a run.
const runTimeout = 10 * time.Minute

// Reached waits for a moment of the run, and tells the statistics at it.
func (s *nodeService) Reached(m int, r *NodeReport) error {
	w := s.current()
	select {
	case <-w.reached[m]:
	case <-time.After(runTimeout):
		return fmt.Errorf("moment %d of the run is not reached after %v", m, runTimeout)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	*r = NodeReport{w.at[m][0], w.cpu[m]}
	return nil
}

// Result tells the run's tokens.
func (s *nodeService) Result(_ none, o *Observation) error {
	t := s.current().trace()
	*o = Observation{t.tokens, t.at}
	return nil
}
