package attention_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
)

// everywhere is a placement of version v by which both expert nodes have all experts.
func (s *stage) everywhere(v uint64) route.Placement {
	p := route.Even(s.Spec.Sparse(), s.Spec.Router.Experts, 2)
	p.Version = v
	homes := make(route.Homes, s.Spec.Router.Experts)
	for e := range homes {
		homes[e] = []int{0, 1}
	}
	for _, l := range s.Spec.SparseLayers() {
		p.Layers[l] = homes
	}
	return p
}

// TestResultsInWrongPlaces: the pair with an expert node whose results do not say that
// they are those asked of it is dropped, with both values.
func TestResultsInWrongPlaces(t *testing.T) {
	for want, change := range map[string]func(*route.Header, []int32) []int32{
		"result 0 is for place 4096, the micro-batch has 6": func(_ *route.Header, places []int32) []int32 {
			places[0] = 4096
			return places
		},
		"as is one before it": func(_ *route.Header, places []int32) []int32 {
			places[1] = places[0]
			return places
		},
		"which was asked of expert node 1 and comes from 0": func(_ *route.Header, places []int32) []int32 {
			asked := map[int32]bool{places[0]: true, places[1]: true, places[2]: true}
			for asked[places[0]] {
				places[0] = (places[0] + 1) % 6
			}
			return places
		},
		"1 results, 3 were asked for": func(_ *route.Header, places []int32) []int32 { return places[:1] },
		"return address 7: this node returns results to their sender alone": func(h *route.Header, p []int32) []int32 {
			h.ReturnTo = 7
			return p
		},
	} {
		t.Run(want, func(t *testing.T) {
			s := newStage(t, time.Minute, 1)
			s.node.SetPlacement(s.everywhere(2))
			s.node.Submit(short)
			h := s.asked("expert-0")
			require.EqualValues(t, 2, h.Placement)
			places := s.asks[askOf("expert-0", h)]
			require.Len(t, places, 3, "of six choices")
			places = change(&h, places)
			s.answerAs("expert-0", h, places)
			require.ErrorContains(t, s.cause("expert-0"), want)
		})
	}
}

// cause waits until the pair with an expert node is lost, and returns why.
func (s *stage) cause(id string) error {
	s.t.Helper()
	for {
		select {
		case all := <-s.pairs:
			for _, p := range all {
				if p.Lost == id && p.Cause != nil {
					return p.Cause
				}
			}
		case <-s.ctx.Done():
			s.t.Fatal("the pair goes on")
		}
	}
}

// TestStepKeepsItsPlacement: a new placement counts from a micro-batch's next step on, and
// the node says that it has left the older one behind once no step uses it.
func TestStepKeepsItsPlacement(t *testing.T) {
	s := newStage(t, time.Minute, 2)
	require.EqualValues(t, 1, <-s.placed)
	for id := range uint64(2) {
		s.node.Submit(serve.Request{ID: id, Prompt: []int32{1, 2, 3}, MaxTokens: 12, Logprobs: -1, PromptLogprobs: -1})
	}
	steps, flying, changed := map[uint64]uint64{}, map[int]bool{}, false
	see := func(h route.Header) {
		if placement, known := steps[h.Step]; known {
			require.Equal(t, placement, h.Placement, "step %d", h.Step)
		}
		steps[h.Step] = h.Placement
		flying[h.MicroBatch] = true
		if h.Placement == 1 {
			require.Empty(t, s.placed, "step %d is by placement 1", h.Step)
		}
		if len(flying) == 2 && !changed {
			s.node.SetPlacement(s.everywhere(2))
			changed = true
		}
	}
	for left := 2; left > 0; {
		r := s.watches(see, "expert-0", "expert-1")
		require.NoError(t, r.Err)
		if r.Event.Finish != "" {
			left--
		}
	}
	require.EqualValues(t, 2, <-s.placed)
	count := map[uint64]int{}
	for _, placement := range steps {
		count[placement]++
	}
	require.Greater(t, count[1], 1)
	require.Greater(t, count[2], 1)
}
