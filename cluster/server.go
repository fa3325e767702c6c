package cluster

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/tandem-moe/tandem/internal/ratelog"
	"github.com/tandem-moe/tandem/internal/tandemv1"
)

// beatsPerTimeout is how many signs of life fit in the time after which a
// silent peer counts as lost: a few may be late on a busy machine.
const beatsPerTimeout = 8

// ErrStopping ends the streams of a front end that stops: the cause of its server's
// base context's end.
var ErrStopping = errors.New("the front end is stopping")

// Server admits nodes to a registry and tells them of every change.
type Server struct {
	// Log is told who is refused and who is lost. It is set before the server is
	// used; nil: nobody is told.
	Log *slog.Logger
	// Judge says whether a member may be ready, by what it has loaded; nil: every
	// member may. It is set before the handler is used.
	Judge Judge

	timeout time.Duration
	logged  func() *ratelog.Logger

	mu       sync.Mutex
	registry *Registry
	tokens   map[[sha256.Size]byte]string // ids, by the digests of what proves them
	changed  chan struct{}                // closed at the next change
}

// NewServer serves a registry of the given cluster: see [NewRegistry].
func NewServer(id Identity, settings Settings, timeout time.Duration) *Server {
	s := &Server{
		timeout:  timeout,
		registry: NewRegistry(id, settings, timeout),
		tokens:   map[[sha256.Size]byte]string{},
		changed:  make(chan struct{}),
	}
	s.registry.Begin(time.Now())
	s.logged = sync.OnceValue(func() *ratelog.Logger {
		return ratelog.New(cmp.Or(s.Log,
			slog.New(slog.DiscardHandler)))
	})
	return s
}

// log is where the server tells what happens.
func (s *Server) log() *ratelog.Logger { return s.logged() }

// Handler returns the path and the handler of the protocol.
func (s *Server) Handler() (string, http.Handler) {
	path, handler := tandemv1.NewMembershipHandler(membership{s}, Options()...)
	return path, Gate(handler)
}

// View returns the current snapshot and a channel that is closed when there is a
// newer one.
func (s *Server) View() (View, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registry.View(), s.changed
}

// Run removes silent members until ctx ends.
func (s *Server) Run(ctx context.Context) {
	tick := time.NewTicker(s.timeout / beatsPerTimeout)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			_ = s.update(func(r *Registry) error {
				r.Expire(now)
				return nil
			})
		}
	}
}

// Expel removes a member that is about to stop and is needed no more. It finds out
// by the end of its stream.
func (s *Server) Expel(id string) { s.Remove(id, "it was about to stop") }

// Remove removes a member for a reason, in words that follow its id. It finds out
// by the end of its stream.
func (s *Server) Remove(id, reason string) {
	_ = s.update(func(r *Registry) error {
		r.Remove(id, reason)
		return nil
	})
}

// Moved tells how far a member is, and since when.
func (s *Server) Moved(id string) (Moved, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registry.Moved(id)
}

// Gone says why a member is gone, in words that follow its id, or nothing where it
// is not, or has been for long.
func (s *Server) Gone(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registry.Gone(id)
}

// update changes the registry, wakes those who watch it, and logs who is gone.
func (s *Server) update(change func(*Registry) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.registry.View()
	err := change(s.registry)
	if s.registry.view.Version == before.Version {
		return err
	}
	close(s.changed)
	s.changed = make(chan struct{})
	for _, m := range s.registry.view.Members {
		if _, ok := before.Find(m.ID); !ok {
			s.log().Info("member joined", "node", m.ID, "place", m.Place, "address", m.Addr)
		}
	}
	if v := s.registry.view.Placement.Version; v != before.Placement.Version {
		s.log().Info("experts are placed anew: all expert nodes hold what is theirs", "placement", v)
	}
	for _, m := range before.Members {
		if _, ok := s.registry.view.Find(m.ID); !ok {
			s.log().Info("member gone", "node", m.ID, "reason", s.registry.Gone(m.ID))
		}
	}
	return err
}
