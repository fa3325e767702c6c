package tandemv1

import (
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestTableListsEveryField: a field that somebody adds has its limits, and every
// line of the table is of a field.
func TestTableListsEveryField(t *testing.T) {
	known := map[string]bool{}
	for name, all := range rules() {
		for _, r := range all {
			field := fieldName(r.field)
			known[field], known[field+"[]"] = true, r.field.IsList()
			number := r.field.Kind() != protoreflect.MessageKind && r.field.Kind() != protoreflect.BoolKind
			if r.whole == nil && (number || r.field.IsList()) {
				t.Errorf("%s has a field without limits: add %q to limits.go", name, field)
			}
			if r.field.IsList() && number && r.entry == nil {
				t.Errorf("%s has a list without limits of its entries: add %q to limits.go", name, field+"[]")
			}
		}
	}
	for _, l := range limits {
		require.True(t, known[l.field], "%s is no field", l.field)
		require.LessOrEqual(t, l.least, l.most, l.field)
		require.NotEmpty(t, l.reason, l.field)
	}
	require.Len(t, byField, len(limits), "a field is listed twice")
}

func TestCheck(t *testing.T) {
	offer := func(change func(*Offer)) *ServeRequest {
		o := &Offer{Node: "a", Epoch: math.MaxUint64, Limits: &Limits{
			Vocabulary: 100, MaxModelLen: 64, CacheTokens: 64, PageTokens: 16, MaxNumSeqs: 2, MaxBatchedTokens: 8,
		}}
		change(o)
		return &ServeRequest{Message: &ServeRequest_Offer{Offer: o}}
	}
	require.NoError(t, Check(offer(func(*Offer) {})))
	for want, m := range map[string]proto.Message{
		"Limits.cache_tokens is 8796093022208, want 1 to 17179869184": offer(func(o *Offer) {
			o.Limits.CacheTokens = 1 << 43
		}),
		"Limits.max_batched_tokens is 0, want 1 to 1048576": offer(func(o *Offer) {
			o.Limits.MaxBatchedTokens = 0
		}),
		"Limits.max_num_seqs is -1000000, want 1 to 65536": offer(func(o *Offer) {
			o.Limits.MaxNumSeqs = -1e6
		}),
		"Offer.node is 1000, want 1 to 128": offer(func(o *Offer) {
			o.Node = strings.Repeat("x", 1000)
		}),
		"Hello.place is -1, want 0 to 1024": &JoinRequest{Message: &JoinRequest_Hello{
			Hello: &Hello{Role: "expert", Addr: "a", Place: proto.Int64(-1)},
		}},
		"View.micro_batches is 65, want 1 to 64": &JoinResponse{Message: &JoinResponse_View{
			View: &View{ExpertNodes: 1, MicroBatches: 65},
		}},
		"Request.prompt[] is -1, want 0 to 16777216": &Request{Prompt: []int32{1, -1}},
		"Request.stop_ids is 1025, want 0 to 1024":   &Request{StopIds: make([]int32, 1025)},
		"Sampling.top_p is NaN, want 0 to 1":         &Request{Sampling: &Sampling{TopP: math.NaN()}},
		"Candidate.logprob is +Inf, want -Inf to 1": &Event{Logprob: &TokenLogprob{
			Top: []*Candidate{{Logprob: float32(math.Inf(1))}},
		}},
		"Failure.kind is 77, want 0 to 5": &Event{Failure: &Failure{Kind: 77}},
	} {
		var e *LimitError
		require.ErrorAs(t, Check(m), &e)
		require.ErrorContains(t, e, want)
	}
}

// kinds are the messages that processes read.
func kinds() []proto.Message {
	return []proto.Message{&JoinRequest{}, &JoinResponse{}, &ServeRequest{}, &ServeResponse{}}
}

// allocated is the bytes that this process has ever allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// FuzzMessages reads any bytes as each kind of message, in memory that their length
// bounds. What Check accepts is the same when it is written and read once more.
func FuzzMessages(f *testing.F) {
	place := int64(3)
	for i, m := range []proto.Message{
		&JoinRequest{Message: &JoinRequest_Hello{Hello: &Hello{Role: "expert", Addr: "tcp:127.0.0.1:7000",
			Identity: &Identity{Version: "v"}, Place: &place}}},
		&JoinResponse{Message: &JoinResponse_Welcome{Welcome: &Welcome{
			Self: &Member{Id: "expert-0", Role: "expert"}, View: &View{ExpertNodes: 1, MicroBatches: 1}, Token: "t",
		}}},
		&ServeRequest{Message: &ServeRequest_Events{Events: &Events{Events: []*Event{{Id: 1,
			Prompt: []*TokenLogprob{{Token: 1, Logprob: -1}}, More: true}}}}},
		&ServeResponse{Message: &ServeResponse_Submit{Submit: &Request{Id: 1, Prompt: []int32{1},
			Sampling: &Sampling{LogitBias: map[int32]float64{1: 1}}}}},
		&JoinRequest{Message: &JoinRequest_Beat{Beat: &Beat{Loaded: 1, Steps: 2, Awaited: []string{"expert-0"}}}},
	} {
		bytes, err := proto.Marshal(m)
		require.NoError(f, err)
		f.Add(uint8(i%4), bytes)
		f.Add(uint8(i%4), bytes[:len(bytes)/2])
	}
	f.Fuzz(func(t *testing.T, kind uint8, bytes []byte) {
		m := kinds()[int(kind)%len(kinds())]
		before := allocated()
		err := proto.Unmarshal(bytes, m)
		if err == nil {
			err = Check(m)
		}
		require.Less(t, allocated()-before, 64<<10+200*uint64(len(bytes)))
		if err != nil {
			return
		}
		again, err := proto.Marshal(m)
		require.NoError(t, err)
		second := m.ProtoReflect().New().Interface()
		require.NoError(t, proto.Unmarshal(again, second))
		require.NoError(t, Check(second))
		require.True(t, proto.Equal(m, second))
	})
}
