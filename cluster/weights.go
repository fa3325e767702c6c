package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	"github.com/tandem-moe/tandem/internal/tandemv1"
)

// Judge compares the weights that members have loaded with the cluster's.
type Judge interface {
	// Weights is how many weights a member holds: no more digests are taken of it.
	Weights(m Member) int
	// Compare returns nil where the digests of a member's weights are those that
	// the cluster serves. It may wait, until ctx ends.
	Compare(ctx context.Context, m Member, digests []uint64) error
}

// digestsPerMessage bounds a message of digests to 32 KiB.
const digestsPerMessage = 4 << 10

// Weights tells the digests of what the node has loaded, before it is Ready.
func (s *Session) Weights(digests []uint64) error {
	for some := range slices.Chunk(digests, digestsPerMessage) {
		weights := &tandemv1.JoinRequest_Weights{Weights: &tandemv1.Weights{Digests: some}}
		if err := s.send(&tandemv1.JoinRequest{Message: weights}); err != nil {
			return err
		}
	}
	return nil
}

// judging is the judgement of one member's weights.
type judging struct {
	judge   Judge // nil: nobody judges
	member  Member
	digests []uint64
	limit   int // how many weights the member holds; 0 until that is known
	// verdict is where Compare's result comes, once it has been asked.
	verdict chan error
}

// add takes digests, no more than the member has weights.
func (j *judging) add(digests []uint64) error {
	if len(digests) == 0 || len(digests) > digestsPerMessage {
		return connect.NewError(connect.CodeInvalidArgument,
			fmt.Errorf("a message has %d digests, want 1 to %d", len(digests), digestsPerMessage))
	}
	if j.limit == 0 && j.judge != nil {
		j.limit = j.judge.Weights(j.member)
	}
	limit := j.limit
	if j.verdict != nil || len(j.digests)+len(digests) > limit {
		return connect.NewError(connect.CodeInvalidArgument,
			fmt.Errorf("node %s tells of %d weights or more, its part has %d", j.member.ID, len(j.digests)+len(digests),
				limit))
	}
	j.digests = append(j.digests, digests...)
	return nil
}

// ask has the weights compared; the verdict comes once, before ctx ends or soon
// after.
func (j *judging) ask(ctx context.Context) error {
	if j.verdict != nil {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("a node is ready once"))
	}
	j.verdict = make(chan error, 1)
	if j.judge == nil {
		j.verdict <- nil
		return nil
	}
	go func() { j.verdict <- j.judge.Compare(ctx, j.member, j.digests) }()
	return nil
}

// rejected is a verdict as the end of a stream.
func rejected(m Member, err error) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("node %s refused: %w", m.ID, err))
}
