package cluster

import (
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	"github.com/tandem-moe/tandem/internal/tandemv1"
)

// Judge compares what members have loaded with what the cluster serves.
type Judge interface {
	// Weights is how many weights a member holds by a placement: no more digests are
	// taken of it. For an attention node the placement is none.
	Weights(m Member, p Placement) int
	// Compare returns nil where the digests of a member's weights are those that
	// the cluster serves. It may wait, until ctx ends.
	Compare(ctx context.Context, m Member, p Placement, digests []uint64) error
}

// digestsPerMessage bounds a message of digests to 32 KiB.
const digestsPerMessage = 4 << 10

// Weights tells the digests of what the node has loaded, before it is Ready for the same
// placement, which is 0 for an attention node. A node that has said that it is Ready
// waits for the view to say so before it tells of another placement.
func (s *Session) Weights(placement uint64, digests []uint64) error {
	for some := range slices.Chunk(digests, digestsPerMessage) {
		weights := &tandemv1.JoinRequest_Weights{Weights: &tandemv1.Weights{Digests: some, Placement: placement}}
		if err := s.send(&tandemv1.JoinRequest{Message: weights}); err != nil {
			return err
		}
	}
	return nil
}

// judging is the judgement of one member's weights, for one placement after another.
type judging struct {
	judge    Judge // nil: nobody judges
	proposed func(version uint64) (Placement, error)
	member   Member
	// The placement under judgement, nil before the first message of one; the digests so
	// far, and how many there may be.
	placement *Placement
	digests   []uint64
	limit     int
	// verdict is where Compare's result comes, once it has been asked; nil before.
	verdict chan error
	// last is the placement of the last verdict, if there has been one.
	judged bool
	last   uint64
}

// begin starts, or goes on with, the judgement by a placement.
func (j *judging) begin(version uint64) error {
	switch {
	case j.verdict != nil:
		return errBroken(fmt.Errorf("node %s tells of weights while others are judged", j.member.ID))
	case j.judged && version <= j.last:
		return errBroken(fmt.Errorf("node %s tells of placement %d, and is ready with %d",
			j.member.ID, version, j.last))
	case j.placement != nil && j.placement.Version == version:
		return nil
	case j.placement != nil:
		return errBroken(fmt.Errorf("node %s tells of placement %d before it is ready with %d",
			j.member.ID, version, j.placement.Version))
	}
	p := Placement{}
	if j.member.Role == Expert {
		var err error
		if p, err = j.proposed(version); err != nil {
			return errBroken(fmt.Errorf("node %s: %w", j.member.ID, err))
		}
	} else if version != 0 {
		return errBroken(fmt.Errorf("node %s is an attention node, and tells of weights by placement %d",
			j.member.ID, version))
	}
	j.placement = &p
	if j.judge != nil && !j.givenUp() {
		j.limit = j.judge.Weights(j.member, p)
	}
	return nil
}

// givenUp says that the placement is not needed any more, so that nobody judges what the
// member holds of it.
func (j *judging) givenUp() bool { return j.placement.Version > 0 && j.placement.Experts == nil }

// add takes digests, no more than the member has weights.
func (j *judging) add(version uint64, digests []uint64) error {
	if len(digests) == 0 || len(digests) > digestsPerMessage {
		return errBroken(fmt.Errorf("a message has %d digests, want 1 to %d", len(digests), digestsPerMessage))
	}
	if err := j.begin(version); err != nil || j.givenUp() {
		return err
	}
	if n := len(j.digests) + len(digests); n > j.limit {
		return errBroken(fmt.Errorf("node %s tells of %d weights or more, its part has %d", j.member.ID, n, j.limit))
	}
	j.digests = append(j.digests, digests...)
	return nil
}

// ask has the weights compared; the verdict comes once, before ctx ends or soon
// after.
func (j *judging) ask(ctx context.Context, version uint64) error {
	if err := j.begin(version); err != nil {
		return err
	}
	j.verdict = make(chan error, 1)
	if j.judge == nil || j.givenUp() {
		j.verdict <- nil
		return nil
	}
	verdict, p, digests := j.verdict, *j.placement, j.digests
	go func() { verdict <- j.judge.Compare(ctx, j.member, p, digests) }()
	return nil
}

// end is the end of a judgement that found nothing wrong: it returns the placement.
func (j *judging) end() uint64 {
	j.judged, j.last = true, j.placement.Version
	j.placement, j.digests, j.limit, j.verdict = nil, nil, 0, nil
	return j.last
}

// rejected is a verdict as the end of a stream.
func rejected(m Member, err error) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("node %s refused: %w", m.ID, err))
}
