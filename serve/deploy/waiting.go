package deploy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/tandem-moe/tandem/cluster"
)

// joinError is a failure to join that may pass: the front end has not been started, say,
// or has no free place now.
type joinError struct{ error }

func (e *joinError) Unwrap() error { return e.error }

// sayAgain is how often a node logs that it still waits to be admitted, longWhile after
// how long it logs that as a warning.
const (
	sayAgain  = 30 * time.Second
	longWhile = time.Minute
)

// waiting logs why a node is not a member. It has no clock: times are passed in. It
// logs nothing as a warning that is normal while a cluster starts, stops or changes.
type waiting struct {
	log   *slog.Logger
	been  bool      // the node has been a member
	since time.Time // first failure since the last success to join; zero after a success
	said  time.Time // when the last failure was logged
	kind  kind      // kind of the failure logged last
}

// tell takes the reason why the node is not a member, and logs it, unless it has logged
// a failure of the same kind less than sayAgain ago.
func (w *waiting) tell(now time.Time, err error) {
	var join *joinError
	if !errors.As(err, &join) {
		w.been, w.since, w.kind = true, time.Time{}, nothing
		w.log.Log(context.Background(), lossLevel(err), "not a member of the cluster any more, trying to join", "reason", err)
		return
	}
	if w.since.IsZero() {
		w.since = now
	}
	k := joinKind(err)
	if k == w.kind && now.Sub(w.said) < sayAgain {
		return
	}
	w.kind, w.said = k, now
	level := slog.LevelInfo
	waited := now.Sub(w.since)
	// A front end that was never reached may just not have been started: no warning.
	if waited >= longWhile && (w.been || k != absent) {
		level = slog.LevelWarn
	}
	args := []any{"waited", waited.Round(time.Second), "reason", err}
	if k == absent {
		w.log.Log(context.Background(), level, "waiting for the front end, trying to join", args...)
	} else {
		w.log.Log(context.Background(), level, "waiting to be admitted, trying to join", args...)
	}
}

// kind is a kind of failure to join.
type kind int

const (
	nothing kind = iota
	absent       // nothing answers at the front end's address
	refused      // the front end answers, and does not admit the node
)

func joinKind(err error) kind {
	var dial *net.OpError
	var name *net.DNSError
	if errors.As(err, &dial) && dial.Op == "dial" || errors.As(err, &name) {
		return absent
	}
	return refused
}

// lossLevel is the log level of a membership's end: a warning, unless the front end has
// stopped in an orderly way.
func lossLevel(err error) slog.Level {
	orderly := strings.Contains(err.Error(), cluster.ErrStopping.Error())
	if orderly {
		return slog.LevelInfo
	}
	return slog.LevelWarn
}
