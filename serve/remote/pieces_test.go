package remote

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/tandem-moe/tandem/internal/tandemv1"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/frontend"
)

func numbers(n int) []int32 {
	list := make([]int32, n)
	for i := range list {
		list[i] = int32(i * 7919 % 150000)
	}
	return list
}

// TestRequestsComeInPieces: a request of any length becomes messages of bounded size,
// and these join to the same request.
func TestRequestsComeInPieces(t *testing.T) {
	for _, n := range [][2]int{{0, 0}, {1, 0}, {pieceTokens, 0}, {pieceTokens + 1, 0}, {pieceTokens - 1, 2}, {3 * pieceTokens, pieceTokens}, {450_000, 50_000}} {
		r := serve.Request{ID: 1 << 50, Prompt: numbers(n[0]), Output: numbers(n[1]), MaxTokens: 9, StopIDs: numbers(serve.MaxStopIDs), Logprobs: -1}
		r.Sampling.LogitBias = map[int32]float64{}
		for i := range int32(serve.MaxBiases) {
			r.Sampling.LogitBias[i+100_000] = 0.1
		}
		whole := joiner{limit: n[0] + n[1]}
		pieces := requestPieces(requestToProto(r))
		for i, p := range pieces {
			m := &tandemv1.ServeResponse{Message: &tandemv1.ServeResponse_Submit{Submit: p}}
			require.NoError(t, tandemv1.Check(m))
			require.Less(t, proto.Size(m), tandemv1.MaxMessage)
			bytes, err := proto.Marshal(p)
			require.NoError(t, err)
			read := &tandemv1.Request{}
			require.NoError(t, proto.Unmarshal(bytes, read))
			got, err := whole.add(read)
			require.NoError(t, err)
			if i+1 < len(pieces) {
				require.Nil(t, got)
				continue
			}
			again := requestFromProto(got)
			require.True(t, slices.Equal(r.Prompt, again.Prompt))
			require.True(t, slices.Equal(r.Output, again.Output))
			require.Equal(t, r.Sampling, again.Sampling)
			require.Equal(t, r.StopIDs, again.StopIDs)
		}
	}
}

// TestPiecesThatDoNotFit: a message that does not continue the pending request, or
// makes it too long, is refused at once.
func TestPiecesThatDoNotFit(t *testing.T) {
	whole := joiner{limit: 10}
	piece := func(id uint64, prompt, output int) *tandemv1.Request {
		return &tandemv1.Request{Id: id, Prompt: numbers(prompt), Output: numbers(output), More: true}
	}
	_, err := whole.add(piece(1, 11, 0))
	require.ErrorContains(t, err, "request 1 has 11 tokens, the most is 10")
	_, err = whole.add(piece(2, 6, 0))
	require.NoError(t, err)
	_, err = whole.add(piece(2, 5, 0))
	require.ErrorContains(t, err, "request 2 has 11 tokens")
	_, err = whole.add(piece(3, 1, 1))
	require.NoError(t, err)
	_, err = whole.add(piece(4, 1, 0))
	require.ErrorContains(t, err, "request 4 begins before the end of request 3")
	whole = joiner{limit: 10}
	_, err = whole.add(piece(5, 1, 1))
	require.NoError(t, err)
	_, err = whole.add(piece(5, 1, 0))
	require.ErrorContains(t, err, "more of its prompt after its output")
}

// candidates returns log-probabilities of tokens with top candidates each.
func candidates(tokens, top int) []serve.TokenLogprob {
	all := make([]serve.TokenLogprob, tokens)
	for i := range all {
		all[i] = serve.TokenLogprob{Logprob: serve.Logprob{Token: int32(i % 150000), Logprob: -1}, Top: make([]serve.Logprob, top)}
		for c := range all[i].Top {
			all[i].Top[c] = serve.Logprob{Token: int32(c + 130000), Logprob: -2.5}
		}
	}
	return all
}

// TestEventsComeInPieces: an event of any length becomes messages of bounded size, in
// order, with all of its content.
func TestEventsComeInPieces(t *testing.T) {
	never := func(uint64) { t.Error("a request was cancelled") }
	reports := []serve.Report{
		{ID: 1, Event: serve.Event{HasToken: true, Token: 1, Prompt: candidates(5_000, 20)}},
		{ID: 2, Event: serve.Event{Finish: serve.FinishLength, Prompt: candidates(3, 0)}},
		{ID: 3, Err: serve.ErrNotFinite},
	}
	for i := range 50_000 {
		reports = append(reports, serve.Report{ID: 1 << 50, Event: serve.Event{HasToken: true, Index: i}})
	}
	prompts := map[uint64][]serve.TokenLogprob{}
	var order []uint64
	for _, m := range eventPieces(reports, never) {
		require.LessOrEqual(t, proto.Size(m), tandemv1.Piece+1024)
		got, err := reportsOf(m)
		require.NoError(t, err)
		for _, r := range got {
			prompts[r.ID] = append(prompts[r.ID], r.Event.Prompt...)
			if !r.More {
				order = append(order, r.ID)
				continue
			}
			r.Event.Prompt = nil
			require.Equal(t, serve.Event{}, r.Event, "a piece has nothing else")
		}
	}
	require.Len(t, order, len(reports))
	require.Equal(t, []uint64{1, 2, 3, 1 << 50}, order[:4])
	require.Equal(t, reports[0].Event.Prompt, prompts[1])
	require.Len(t, prompts[2], 3)
}

// TestWhatCannotBeCutEndsOneRequest: a report that cannot be cut ends its own request
// and no other.
func TestWhatCannotBeCutEndsOneRequest(t *testing.T) {
	large := candidates(1, 300_000)[0]
	var cancelled []uint64
	messages := eventPieces([]serve.Report{
		{ID: 1, Event: serve.Event{HasToken: true, Logprob: &large}},
		{ID: 2, Event: serve.Event{HasToken: true, Prompt: []serve.TokenLogprob{large}}},
		{ID: 3, Event: serve.Event{HasToken: true, Token: 5}},
	}, func(id uint64) { cancelled = append(cancelled, id) })
	require.Equal(t, []uint64{1, 2}, cancelled)
	require.Len(t, messages, 1)
	got, err := reportsOf(messages[0])
	require.NoError(t, err)
	var invalid *serve.InvalidError
	require.ErrorAs(t, got[0].Err, &invalid)
	require.ErrorAs(t, got[1].Err, &invalid)
	require.Contains(t, invalid.Reason, "a message between nodes holds 2097152")
	require.EqualValues(t, 5, got[2].Event.Token)
}

// TestReasonsFit: any text, clipped, can be a failure's reason.
func TestReasonsFit(t *testing.T) {
	for _, s := range []string{"", "plain", strings.Repeat("é", 4000), "\xff\xfe", strings.Repeat("\xff", 9000)} {
		p := failureToProto(&serve.UnavailableError{Reason: s})
		require.NoError(t, tandemv1.Check(p))
		_, err := proto.Marshal(p)
		require.NoError(t, err)
	}
	require.Equal(t, "plain", clipped("plain"))
}

// FuzzOffers: any bytes as a first message give an offer that fits its member, or an
// error.
func FuzzOffers(f *testing.F) {
	good := serve.Offer{
		Node: "attention-0", Epoch: 7, PageTokens: 16, MaxNumSeqs: 2, MaxBatchedTokens: 8,
		Limits: serve.Limits{Vocabulary: 100, MaxModelLen: 64, CacheTokens: 64},
	}
	bytes, err := proto.Marshal(&tandemv1.ServeRequest{Message: &tandemv1.ServeRequest_Offer{Offer: offerToProto(good)}})
	require.NoError(f, err)
	f.Add(bytes)
	f.Add(bytes[:len(bytes)-2])
	f.Fuzz(func(t *testing.T, bytes []byte) {
		m := &tandemv1.ServeRequest{}
		if proto.Unmarshal(bytes, m) != nil {
			return
		}
		front := frontend.New(frontend.Config{Vocabulary: 100, MaxModelLen: 64, MaxBatchedTokens: 8, Missing: func() string { return "" }})
		o, err := acceptable(m, member)
		if err != nil {
			return
		}
		worker := &obedient{}
		if _, err := front.Attach(o, worker); err != nil {
			return
		}
		require.Equal(t, good.Node, o.Node)
		_, _ = front.Submit(t.Context(), serve.Request{Prompt: numbers(1), MaxTokens: 1, Logprobs: -1, PromptLogprobs: -1}) // may be refused, and does not panic
	})
}

// FuzzEvents: a front end with one request gets any bytes as its node's message, and
// takes events that fit the request or refuses the node.
func FuzzEvents(f *testing.F) {
	ask := serve.Request{Prompt: []int32{5, 6, 7}, MaxTokens: 3, StopIDs: []int32{9}, Logprobs: 1, PromptLogprobs: 1}
	for _, reports := range [][]serve.Report{
		{{Event: serve.Event{HasToken: true, Token: 1, Logprob: &candidates(2, 1)[1], Prompt: candidates(3, 1)}}},
		{{More: true, Event: serve.Event{Prompt: candidates(2, 1)}}},
		{{Err: serve.ErrNotFinite}},
		{{Event: serve.Event{Finish: serve.FinishStop}}},
	} {
		for _, m := range eventPieces(reports, func(uint64) {}) {
			bytes, err := proto.Marshal(m)
			require.NoError(f, err)
			f.Add(bytes)
		}
	}
	f.Fuzz(func(t *testing.T, bytes []byte) {
		m := &tandemv1.ServeRequest{}
		if proto.Unmarshal(bytes, m) != nil {
			return
		}
		reports, err := reportsOf(m)
		if err != nil {
			return
		}
		front := frontend.New(frontend.Config{Vocabulary: 100, MaxModelLen: 64, MaxWaiting: 1, Missing: func() string { return "" }})
		worker := &obedient{}
		_, err = front.Attach(serve.Offer{
			Node: "a", PageTokens: 16, MaxNumSeqs: 2, MaxBatchedTokens: 8, Limits: serve.Limits{Vocabulary: 100, MaxModelLen: 64, CacheTokens: 64},
		}, worker)
		require.NoError(t, err)
		s, err := front.Submit(t.Context(), ask)
		require.NoError(t, err)
		for i := range reports {
			reports[i].ID += worker.requests[0].ID // id 0 stands for the request's
		}
		refused := front.Deliver("a", reports) != nil
		s.Close()
		outputs := 0
		for {
			e, err := s.Next(t.Context())
			if err != nil {
				break
			}
			require.True(t, e.Token >= 0 && e.Token < 100)
			require.True(t, !e.HasToken || e.Index == outputs, "%v, refused: %v", e, refused)
			if e.HasToken {
				outputs++
			}
		}
		require.LessOrEqual(t, outputs, ask.MaxTokens)
	})
}

// FuzzRequests: of any bytes as the front end's messages, only requests that the
// worker can serve reach it.
func FuzzRequests(f *testing.F) {
	for _, r := range []serve.Request{
		{ID: 1, Prompt: []int32{5, 6, 7}, MaxTokens: 3, StopIDs: []int32{9}, Logprobs: 1, PromptLogprobs: 1},
		{ID: 1, Prompt: []int32{500}, MaxTokens: -3},
	} {
		bytes, err := proto.Marshal(&tandemv1.ServeResponse{Message: &tandemv1.ServeResponse_Submit{Submit: requestToProto(r)}})
		require.NoError(f, err)
		f.Add(bytes, bytes)
	}
	o := serve.Offer{Limits: serve.Limits{Vocabulary: 100, MaxModelLen: 64, CacheTokens: 64}}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		client, worker, whole := NewClient(), &obedient{}, joiner{limit: o.MaxModelLen}
		for _, bytes := range [][]byte{one, two} {
			m := &tandemv1.ServeResponse{}
			if proto.Unmarshal(bytes, m) != nil || client.obey(m, &whole, o, worker) != nil {
				return
			}
		}
		for _, r := range worker.requests {
			require.NoError(t, r.Validate(o.Limits), fmt.Sprint(r))
		}
	})
}
