package cluster

import (
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	"github.com/tandem-moe/tandem/internal/tandemv1"
)

// Judge compares the weights that members have loaded with the cluster's.
type Judge interface {
	// Weights is how many weights a member holds by a placement; the server takes no
	// more digests from it. For an attention node the placement is zero.
	Weights(m Member, p Placement) int
	// Compare returns nil where the digests of a member's weights are those of the
	// cluster's. It may wait, until ctx ends.
	Compare(ctx context.Context, m Member, p Placement, digests []uint64) error
}

// digestsPerMessage bounds a message of digests to 32 KiB.
const digestsPerMessage = 4 << 10

// Weights sends the digests of the weights that the node has loaded for a placement,
// before it is Ready for that placement; an attention node's placement is 0. After
// Ready, a node waits until the view says that it is ready, before it sends the digests
// for another placement.
func (s *Session) Weights(placement uint64, digests []uint64) error {
	for some := range slices.Chunk(digests, digestsPerMessage) {
		weights := &tandemv1.JoinRequest_Weights{Weights: &tandemv1.Weights{Digests: some, Placement: placement}}
		if err := s.send(&tandemv1.JoinRequest{Message: weights}); err != nil {
			return err
		}
	}
	return nil
}

// judging collects the digests of one member's weights and has them compared, for one
// placement after another.
type judging struct {
	judge    Judge // nil: weights are not compared
	proposed func(version uint64) (Placement, error)
	member   Member
	// placement is the one whose digests are being collected or compared, or nil; digests
	// are those received so far, limit bounds how many there may be.
	placement *Placement
	digests   []uint64
	limit     int
	// verdict receives Compare's result; nil until Compare has been called.
	verdict chan error
	// last is the placement of the last verdict; judged says that there has been one.
	judged bool
	last   uint64
}

// begin starts the comparison for a placement, or checks that it is the current one.
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

// givenUp says that the placement is no longer needed, so that the member's weights for
// it are not compared.
func (j *judging) givenUp() bool { return j.placement.Version > 0 && j.placement.Experts == nil }

// add takes digests, in all no more than the member has weights.
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

// ask starts the comparison of the weights; the verdict channel gets one result, at
// the latest soon after ctx ends.
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

// end ends a comparison that found no difference, and returns its placement.
func (j *judging) end() uint64 {
	j.judged, j.last = true, j.placement.Version
	j.placement, j.digests, j.limit, j.verdict = nil, nil, 0, nil
	return j.last
}

// rejected is the error that ends the stream of a member whose weights differ.
func rejected(m Member, err error) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("node %s refused: %w", m.ID, err))
}
