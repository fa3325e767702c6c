package deploy_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/cluster"
	"github.com/tandem-moe/tandem/internal/oracle"
	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/model/checkpoint"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/deploy"
)

// start serves a model's folder ("": the embedded one) for the time of a test.
func start(t *testing.T, dir string, o deploy.Options) *deploy.Local {
	t.Helper()
	m, err := deploy.OpenModel(dir)
	require.NoError(t, err)
	local, err := deploy.StartLocal(t.Context(), m, o, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, local.Close())
		require.NoError(t, m.Checkpoint.Close())
	})
	return local
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// small is a request for a few tokens.
func small(n int) serve.Request {
	return serve.Request{Prompt: []int32{5, 6, 7}, MaxTokens: n, Logprobs: -1, PromptLogprobs: -1}
}

// withoutAttention is a device that computes experts only.
type withoutAttention struct{ kernel.ExpertDevice }

// devicesOf makes devices without attention for the nodes of a role.
func devicesOf(role string) func(string, *kernel.Pool) (kernel.ExpertDevice, error) {
	return func(node string, pool *kernel.Pool) (kernel.ExpertDevice, error) {
		dev, err := kernel.NewCPU(kernel.CPUOptions{Pool: pool, Threads: 1})
		if err == nil && strings.HasPrefix(node, role) {
			return withoutAttention{dev}, nil
		}
		return dev, err
	}
}

// TestExpertsNeedNoAttention: a device without attention serves an expert node, and is
// refused by name as an attention node's, in one process and in a process of its own.
func TestExpertsNeedNoAttention(t *testing.T) {
	l := start(t, "", deploy.Options{MaxModelLen: 64, KVMemory: 1 << 20, Device: devicesOf("expert")})
	a, err := ask(bounded(t), l.Engine, small(3))
	require.NoError(t, err)
	require.Len(t, a.tokens, 3)

	m, err := deploy.OpenModel("")
	require.NoError(t, err)
	defer m.Checkpoint.Close()
	options := deploy.Options{MaxModelLen: 64, KVMemory: 1 << 20, Device: devicesOf("attention")}
	best := kernel.Available()[len(kernel.Available())-1]
	want := fmt.Sprintf("the device \"cpu %v, 1 thread\" computes no attention, only experts", best)
	_, err = deploy.StartLocal(t.Context(), m, options, nil)
	require.EqualError(t, err, "node attention-0: "+want)
	_, err = deploy.NewNode(m, deploy.NodeOptions{Role: cluster.Attention, Listen: "127.0.0.1:0", Options: options})
	require.EqualError(t, err, want)
}

func TestRefusals(t *testing.T) {
	l := start(t, "", deploy.Options{MaxModelLen: 64, KVMemory: 1 << 20})
	limits := l.Engine.Limits()
	require.Equal(t, 64, limits.MaxModelLen)
	for field, change := range map[string]func(*serve.Request){
		"Prompt: it has no tokens":                               func(r *serve.Request) { r.Prompt = nil },
		"token 4096 at place 1 is not in the vocabulary":         func(r *serve.Request) { r.Prompt = []int32{1, 4096} },
		"token -1 at place 0":                                    func(r *serve.Request) { r.Prompt[0] = -1 },
		"3 tokens and 62 of output are more than the model's 64": func(r *serve.Request) { r.MaxTokens = 62 },
		"MaxTokens: -1 is negative":                              func(r *serve.Request) { r.MaxTokens = -1 },
		"Temperature":                                            func(r *serve.Request) { r.Sampling.Temperature = -1 },
		"5000 candidates of a vocabulary of 4096":                func(r *serve.Request) { r.Logprobs = 5000 },
	} {
		r := small(1)
		change(&r)
		_, err := l.Engine.Submit(t.Context(), r)
		var invalid *serve.InvalidError
		require.ErrorAs(t, err, &invalid)
		require.ErrorContains(t, err, field)
	}
}

// TestQueueIsBounded fills the only place and a queue of one request: the next request
// is refused.
func TestQueueIsBounded(t *testing.T) {
	l := start(t, "", deploy.Options{MaxModelLen: 2048, MaxNumSeqs: 1, MaxWaiting: 1})
	for range 2 {
		s, err := l.Engine.Submit(t.Context(), small(1500))
		require.NoError(t, err)
		defer s.Close()
	}
	_, err := l.Engine.Submit(t.Context(), small(1))
	require.Equal(t, &serve.BusyError{Waiting: 1, Limit: 1}, err)
}

// TestCancellationFreesPages cancels a running and a waiting request: both end, and a
// later request runs.
func TestCancellationFreesPages(t *testing.T) {
	l := start(t, "", deploy.Options{MaxModelLen: 2048, MaxNumSeqs: 1})
	ctx := bounded(t)
	running, err := l.Engine.Submit(ctx, small(1500))
	require.NoError(t, err)
	waiting, err := l.Engine.Submit(ctx, small(1500))
	require.NoError(t, err)
	_, err = running.Next(ctx)
	require.NoError(t, err)
	running.Close()
	waiting.Close()
	for err == nil {
		_, err = running.Next(ctx)
	}
	require.ErrorIs(t, err, context.Canceled)
	a, err := ask(ctx, l.Engine, small(3))
	require.NoError(t, err)
	require.Len(t, a.tokens, 3)
	require.Eventually(t, func() bool { return l.Stats()[0].UsedTokens == 0 }, 5*time.Second, time.Millisecond)
}

// TestNonFiniteLogitsEndTheRequest serves a checkpoint whose last norm has a NaN.
func TestNonFiniteLogitsEndTheRequest(t *testing.T) {
	l := start(t, broken(t), deploy.Options{})
	_, err := ask(bounded(t), l.Engine, small(3))
	require.ErrorIs(t, err, serve.ErrNotFinite)
	require.Empty(t, l.Missing(), "the engine goes on")
}

// broken copies a fixture with NaN in its final norm.
func broken(t *testing.T) string {
	t.Helper()
	src, dir := oracle.Models(t)[0], t.TempDir()
	c, err := checkpoint.Open(src)
	require.NoError(t, err)
	defer c.Close()
	var tensors []checkpoint.Named
	for _, name := range c.Names() {
		tensor, err := c.Tensor(name)
		require.NoError(t, err)
		if name == "model.norm.weight" {
			tensor.Data = append([]byte(nil), tensor.Data...)
			for i := range tensor.Data {
				tensor.Data[i] = 0xff
			}
		}
		tensors = append(tensors, checkpoint.Named{Name: name, Tensor: tensor})
	}
	require.NoError(t, checkpoint.WriteDir(dir, nil, tensors, 0))
	config, err := os.ReadFile(filepath.Join(src, "config.json"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600))
	return dir
}

// TestResumedRequestGoesOn resumes a request with its first output tokens: the other
// tokens are the same, drawn with the same random numbers.
func TestResumedRequestGoesOn(t *testing.T) {
	l := start(t, "", deploy.Options{})
	ctx := bounded(t)
	for i, r := range requests(l.Engine.Limits().Vocabulary) {
		whole, err := ask(ctx, l.Engine, r)
		require.NoError(t, err)
		if len(whole.tokens) < 4 {
			continue
		}
		r.Output = whole.tokens[:3]
		rest, err := ask(ctx, l.Engine, r)
		require.NoError(t, err)
		require.Equal(t, whole.tokens[3:], rest.tokens, "request %d", i)
	}
}

// TestPagesTravel exports a prefix of one node's cache to another: the other
// reuses it, and answers the same.
func TestPagesTravel(t *testing.T) {
	from, to := start(t, "", deploy.Options{}), start(t, "", deploy.Options{})
	ctx := bounded(t)
	r := requests(from.Engine.Limits().Vocabulary)[0]
	want, err := ask(ctx, from.Engine, r)
	require.NoError(t, err)
	data, pages, err := from.AttentionNodes()[0].Export(ctx, r.Prompt, 0)
	require.NoError(t, err)
	require.Equal(t, len(r.Prompt)/16, pages)
	got, err := to.AttentionNodes()[0].Import(ctx, data)
	require.NoError(t, err)
	require.Equal(t, pages, got)
	answer, err := ask(ctx, to.Engine, r)
	require.NoError(t, err)
	require.Equal(t, want.bits(), answer.bits())
	require.EqualValues(t, 16*pages, to.Stats()[0].PrefixHits)
	_, err = to.AttentionNodes()[0].Import(ctx, data[:len(data)/2])
	require.Error(t, err)
}
