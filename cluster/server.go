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

// beatsPerTimeout is how many beats a peer sends within the time after which a silent
// peer counts as lost: on a busy machine, several may be late without harm.
const beatsPerTimeout = 8

// ErrStopping ends the streams of a front end that stops. The front end cancels its
// HTTP server's base context with it as the cause.
var ErrStopping = errors.New("the front end is stopping")

// Server admits nodes to a registry and tells them of every change.
type Server struct {
	// Log gets lines about nodes that join, are refused or are gone. It is set before
	// the server is used; nil logs nothing.
	Log *slog.Logger
	// Judge compares a member's weights before the member is ready; nil means that
	// they are not compared. It is set before the handler is used.
	Judge Judge

	timeout time.Duration
	logged  func() *ratelog.Logger

	mu       sync.Mutex
	registry *Registry
	tokens   map[[sha256.Size]byte]string // digest of a member's secret → its id
	changed  chan struct{}                // closed at the next change of the view
}

// NewServer returns the server of a cluster without members: see [NewRegistry].
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

// log returns the server's logger.
func (s *Server) log() *ratelog.Logger { return s.logged() }

// Handler returns the path and the handler of the protocol by which nodes join.
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

// Expel removes a member that is about to stop and that no request needs. The member's
// stream ends.
func (s *Server) Expel(id string) { s.Remove(id, "it was about to stop") }

// Remove removes a member for a reason, in words that follow its id. The member's
// stream ends.
func (s *Server) Remove(id, reason string) {
	_ = s.update(func(r *Registry) error {
		r.Remove(id, reason)
		return nil
	})
}

// Moved returns a member's last progress, and when that last changed.
func (s *Server) Moved(id string) (Moved, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registry.Moved(id)
}

// Gone says why a member is gone, in words that follow its id. It returns "" where the
// member is not gone, or has been gone for long.
func (s *Server) Gone(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registry.Gone(id)
}

// update changes the registry. Where that changes the view, it closes s.changed and
// logs members that have joined or are gone.
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
