package deploy_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tandem-moe/tandem/kernel"
	"github.com/tandem-moe/tandem/layer"
	"github.com/tandem-moe/tandem/route"
	"github.com/tandem-moe/tandem/serve"
	"github.com/tandem-moe/tandem/serve/deploy"
	"github.com/tandem-moe/tandem/serve/direct"
	"github.com/tandem-moe/tandem/serve/sample"
)

// plainEngine is the slow, obvious version: it serves one request at a time, computes
// the whole sequence again for each token, on one thread, and by portable code where the
// model is small and the numerics are the default.
type plainEngine struct {
	t      testing.TB
	m      *deploy.Model
	dev    kernel.Device
	direct *direct.Model
	pages  []int32
	logits kernel.Buffer
	lse    kernel.Buffer
}

// portableHidden is the width up to which portable code is fast enough here.
const portableHidden = 128

// plain answers all requests with the plain version, in the numerics of a layout.
func plain(t *testing.T, m *deploy.Model, n numerics) []answer {
	t.Helper()
	isa := kernel.Portable
	if m.Spec.Hidden > portableHidden || raceEnabled || n.wire != (route.Wire{}) {
		isa = kernel.Auto
	}
	dev, err := kernel.NewCPU(kernel.CPUOptions{ISA: isa, Threads: 1})
	require.NoError(t, err)
	defer dev.Close()
	a, err := layer.LoadAttention(t.Context(), dev, m.Checkpoint, m.Spec, longest, nil)
	require.NoError(t, err)
	e, err := layer.LoadExperts(t.Context(), dev, m.Checkpoint, m.Spec, m.Spec.AllExperts().Experts, nil)
	require.NoError(t, err)
	cache, err := layer.NewCache(dev, m.Spec, longest/kernel.KVBlock, kernel.KVBlock)
	require.NoError(t, err)
	defer cache.Free(dev)
	p := &plainEngine{t: t, m: m, dev: dev}
	p.direct, err = direct.New(dev, m.Spec, a, e, cache, longest)
	require.NoError(t, err)
	defer p.direct.Free()
	p.direct.Wire, p.direct.Placement = n.wire, n.placementOf(m)
	for i := range cache.Pages {
		p.pages = append(p.pages, int32(i))
	}
	p.logits, err = dev.Alloc(kernel.DeviceMemory, kernel.F32, longest*m.Spec.Vocabulary)
	require.NoError(t, err)
	defer dev.Free(p.logits)
	p.lse, err = dev.Alloc(kernel.DeviceMemory, kernel.F32, longest)
	require.NoError(t, err)
	defer dev.Free(p.lse)
	var answers []answer
	for _, r := range requests(m.Spec.Vocabulary) {
		answers = append(answers, p.answer(r))
	}
	return answers
}

// forward computes a whole sequence and returns each row's logits and their
// log-sum-exp.
func (p *plainEngine) forward(tokens []int32) ([]float32, []float32) {
	pos := make([]int32, len(tokens))
	for i := range pos {
		pos[i] = int32(i)
	}
	seqs := []kernel.Sequence{{Rows: len(tokens), Pages: p.pages}}
	require.NoError(p.t, p.direct.Forward(p.t.Context(), tokens, pos, seqs))
	p.direct.Head(kernel.MatOf(p.logits, len(tokens), p.m.Spec.Vocabulary), kernel.MatOf(p.lse, len(tokens), 1), pos)
	require.NoError(p.t, p.dev.Record().Wait(p.t.Context()))
	return kernel.Float32s(p.logits), kernel.Float32s(p.lse)
}

// answer continues a request token by token.
func (p *plainEngine) answer(r serve.Request) answer {
	a := answer{finish: serve.FinishLength}
	v := p.m.Spec.Vocabulary
	logits, lse := p.forward(r.Prompt)
	if r.PromptLogprobs >= 0 {
		a.prompt = append(a.prompt, serve.TokenLogprob{Logprob: serve.Logprob{Token: r.Prompt[0]}})
		for i, token := range r.Prompt[1:] {
			a.prompt = append(a.prompt, logprob(logits[i*v:(i+1)*v], lse[i], token, r.PromptLogprobs))
		}
	}
	chain := r.Sampling.Chain()
	var sampler sample.Sampler
	for len(a.tokens) < r.MaxTokens {
		tokens := slices.Concat(r.Prompt, a.tokens)
		logits, lse = p.forward(tokens)
		last := logits[(len(tokens)-1)*v : len(tokens)*v]
		var counter sample.Counter
		counter.Reset(r.Prompt, a.tokens)
		token, err := sampler.Sample(last, &chain, &counter)
		require.NoError(p.t, err)
		if r.Logprobs >= 0 {
			a.logs = append(a.logs, logprob(last, lse[len(tokens)-1], token, r.Logprobs))
		}
		a.tokens = append(a.tokens, token)
	}
	return a
}

// logprob is a token's log-probability and the best candidates, by sorting all.
func logprob(logits []float32, lse float32, token int32, top int) serve.TokenLogprob {
	l := serve.TokenLogprob{Logprob: serve.Logprob{Token: token, Logprob: logits[token] - lse}}
	order := make([]int32, len(logits))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		switch {
		case logits[a] > logits[b]:
			return -1
		case logits[a] < logits[b]:
			return 1
		}
		return 0
	})
	for _, id := range order[:top] {
		l.Top = append(l.Top, serve.Logprob{Token: id, Logprob: logits[id] - lse})
	}
	return l
}
