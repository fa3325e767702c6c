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

// joinError is a failure to become a member: the front end may not have been started,
// or has no place now.
type joinError struct{ error }

func (e *joinError) Unwrap() error { return e.error }

// How often a node says that it still waits to be admitted, and after how long that
// needs an operator.
const (
	sayAgain  = 30 * time.Second
	longWhile = time.Minute
)

// waiting tells an operator why a node is not a member. It is pure: times are passed
// in. What nodes do while a cluster starts, stops or changes is no warning.
type waiting struct {
	log   *slog.Logger
	been  bool      // a member
	since time.Time // of the first failure to join in a row; zero: the last one did not fail
	said  time.Time
	kind  kind // of what was said
}

// tell notes why the node is not a member, and logs it unless it has just said so.
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
	if waited >= longWhile && (w.been || k != absent) { // else the front end has not been started
		level = slog.LevelWarn
	}
	args := []any{"waited", waited.Round(time.Second), "reason", err}
	if k == absent {
		w.log.Log(context.Background(), level, "waiting for the front end, trying to join", args...)
	} else {
		w.log.Log(context.Background(), level, "waiting to be admitted, trying to join", args...)
	}
}

// kind is one of failures to join.
type kind int

const (
	nothing kind = iota
	absent       // nobody is reached at the front end's address
	refused      // the front end is there, and does not admit the node
)

func joinKind(err error) kind {
	var dial *net.OpError
	var name *net.DNSError
	if errors.As(err, &dial) && dial.Op == "dial" || errors.As(err, &name) {
		return absent
	}
	return refused
}

// lossLevel is how loud the end of a membership is: a warning where something broke.
func lossLevel(err error) slog.Level {
	orderly := strings.Contains(err.Error(), cluster.ErrStopping.Error())
	if orderly {
		return slog.LevelInfo
	}
	return slog.LevelWarn
}
