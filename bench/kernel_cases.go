package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/tandem-moe/tandem/kernel"
)

// Shapes of the measured operations: those of PERFORMANCE's medium model, whose
// expert has 1024 hidden units, on a decoding batch of 32 and a prefill of 512.
const (
	hidden    = 2048
	experts   = 32
	topK      = 4
	decode    = 32
	prefill   = 512
	heads     = 32
	kvHeads   = 4
	headDim   = 64
	kvContext = 1024
)

// setup makes operands.
type setup struct {
	dev     kernel.Device
	memory  int
	stream  kernel.Buffer // all of the memory, of the kind that operations use
	buffers []kernel.Buffer
	err     error // the first that happened
}

func (s *setup) free() {
	for _, b := range s.buffers {
		s.dev.Free(b)
	}
}

func (s *setup) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// buffer is n elements, random where they are floats.
func (s *setup) buffer(t kernel.DType, n int) kernel.Buffer {
	b, err := s.dev.Alloc(kernel.DeviceMemory, t, n)
	if err != nil {
		s.fail(err)
		return nil
	}
	s.buffers = append(s.buffers, b)
	if t == kernel.F32 {
		s.dev.Load(b, 0, randomElements(t, n))
	}
	return b
}

func (s *setup) mat(rows, cols int) kernel.Mat {
	return kernel.MatOf(s.buffer(kernel.F32, rows*cols), rows, cols)
}

// coded is room for rows in a format.
func (s *setup) coded(f kernel.RowFormat, rows, cols int) kernel.CodedMat {
	return kernel.CodedMatOf(s.buffer(kernel.I32, rows*f.Bytes(cols)/4), f, rows, cols)
}

// weights are as many matrices as fill the memory, at least one and at most
// limit.
func (s *setup) weights(t kernel.DType, out, in, limit int) (ws []kernel.Weight) {
	n := min(max(s.memory/t.Bytes(out*in), 1), limit)
	data := randomElements(t, out*in)
	for range n {
		w, err := s.dev.Pack(kernel.HostMatrix{DType: t, Out: out, In: in, Data: data})
		if err != nil {
			s.fail(err)
			return []kernel.Weight{nil}
		}
		ws = append(ws, w)
	}
	return ws
}

// randomElements are little-endian elements between 1/2 and 1, of either sign; a
// page of them, repeated.
func randomElements(t kernel.DType, n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	page := make([]byte, 0, 4096)
	for len(page) < cap(page) {
		switch x := r.Uint32(); t {
		case kernel.F16:
			page = binary.LittleEndian.AppendUint16(page, uint16(x&0x83ff|0x3800))
		case kernel.BF16:
			page = binary.LittleEndian.AppendUint16(page, uint16(x&0x807f|0x3f00))
		default:
			page = binary.LittleEndian.AppendUint32(page, x&0x807fffff|0x3f000000)
		}
	}
	data := make([]byte, t.Bytes(n))
	for at := 0; at < len(data); at += len(page) {
		copy(data[at:], page)
	}
	return data
}

// kernelCases are the primitives to measure.
func kernelCases(s *setup) ([]*kernelCase, error) {
	s.stream = s.buffer(kernel.F32, s.memory/4)
	var cases []*kernelCase
	for _, t := range []kernel.DType{kernel.F32, kernel.BF16, kernel.F16} {
		cases = append(cases, gemmCase(s, t))
	}
	for _, t := range []kernel.DType{kernel.F32, kernel.BF16, kernel.F16} {
		cases = append(cases, linearCase(s, t, 1))
	}
	cases = append(cases, linearCase(s, kernel.BF16, 4), linearCase(s, kernel.BF16, 8))
	cases = append(cases, groupedCase(s, kernel.BF16, 1), groupedCase(s, kernel.BF16, decode*topK/experts))
	cases = append(cases, decodeAttention(s), prefillAttention(s))
	cases = append(cases, rowCases(s)...)
	if s.err != nil {
		return nil, fmt.Errorf("operands: %w", s.err)
	}
	return cases, nil
}

// gemmCase multiplies a prefill by one weight that stays in the cache.
func gemmCase(s *setup, t kernel.DType) *kernelCase {
	dst, src, w := s.mat(prefill, hidden), s.mat(prefill, hidden), s.weights(t, hidden, hidden, 1)[0]
	return &kernelCase{
		name:  fmt.Sprintf("Linear %v, %d × %d × %d", t, prefill, hidden, hidden),
		flops: 2 * prefill * hidden * hidden, calls: 1,
		run: func(int) { s.dev.Linear(dst, src, w, nil) },
	}
}

// linearCase multiplies a few rows by one weight after the other, from memory.
func linearCase(s *setup, t kernel.DType, rows int) *kernelCase {
	dst, src, ws := s.mat(rows, hidden), s.mat(rows, hidden), s.weights(t, hidden, hidden, 1<<20)
	return &kernelCase{
		name:  fmt.Sprintf("Linear %v, %d × %d × %d", t, rows, hidden, hidden),
		flops: float64(2 * rows * hidden * hidden), bytes: float64(t.Bytes(hidden * hidden)), calls: len(ws),
		run: func(call int) { s.dev.Linear(dst, src, ws[call], nil) },
	}
}

// groupedCase multiplies a few rows for each expert, from memory: what decoding
// does.
func groupedCase(s *setup, t kernel.DType, rows int) *kernelCase {
	ws := s.weights(t, hidden, hidden, experts)
	offsets := make([]int32, len(ws)+1)
	for i := range offsets {
		offsets[i] = int32(i * rows)
	}
	dst, src := s.mat(rows*len(ws), hidden), s.mat(rows*len(ws), hidden)
	n := float64(len(ws) * hidden * hidden)
	return &kernelCase{
		name:  fmt.Sprintf("GroupedLinear %v, %d experts of %d rows", t, len(ws), rows),
		flops: 2 * float64(rows) * n, bytes: n * float64(t.Bytes(1)), calls: 1,
		run: func(int) { s.dev.GroupedLinear(dst, src, ws, nil, offsets) },
	}
}

// cache is a KV cache of some sequences, all of the same length and with rows
// queries at their end.
func cache(s *setup, sequences, context, rows int) (kernel.KV, []kernel.Sequence) {
	const pageTokens = 64
	pages := context / pageTokens
	n := sequences * context * kvHeads * headDim
	c := kernel.KV{K: s.buffer(kernel.F32, n), V: s.buffer(kernel.F32, n), PageTokens: pageTokens, Heads: kvHeads, KeyDim: headDim, ValueDim: headDim}
	order := rand.New(rand.NewPCG(3, 4)).Perm(sequences * pages)
	seqs := make([]kernel.Sequence, sequences)
	for i := range seqs {
		seqs[i] = kernel.Sequence{Row: i * rows, Rows: rows, Pos: context - rows}
		for _, page := range order[i*pages : (i+1)*pages] {
			seqs[i].Pages = append(seqs[i].Pages, int32(page))
		}
	}
	return c, seqs
}

// decodeAttention is one query for each of many sequences.
func decodeAttention(s *setup) *kernelCase {
	c, seqs := cache(s, decode, kvContext, 1)
	return attentionCase(s, c, seqs, float64(decode*kvContext),
		fmt.Sprintf("Attention, %d sequences at %d", decode, kvContext), 4)
}

// prefillAttention is a chunk of queries of one sequence.
func prefillAttention(s *setup) *kernelCase {
	c, seqs := cache(s, 1, kvContext, prefill)
	return attentionCase(s, c, seqs, float64(prefill*kvContext)-float64(prefill*(prefill-1)/2),
		fmt.Sprintf("Attention, %d queries at %d", prefill, kvContext), 1)
}

// attentionCase sees pairs of queries and keys in all.
func attentionCase(s *setup, c kernel.KV, seqs []kernel.Sequence, pairs float64, name string, calls int) *kernelCase {
	rows := 0
	for _, q := range seqs {
		rows += q.Rows
	}
	dst, q := s.mat(rows, heads*headDim), s.mat(rows, heads*headDim)
	p := kernel.AttentionParams{Heads: heads, Scale: 0.125}
	return &kernelCase{
		name: name, flops: pairs * heads * headDim * 4,
		bytes: float64(len(seqs) * kvContext * kvHeads * headDim * 2 * 4), calls: calls,
		run: func(int) { s.dev.Attention(dst, q, c, seqs, p) },
	}
}

// rowCases are the operations that do little with each element: memory bounds
// them, here with as many rows as fill it. What they read counts, and what they
// overwrite, which the cache reads too; writing has a way of its own.
func rowCases(s *setup) []*kernelCase {
	rows := max(s.memory/(4*hidden*4), 1)
	a, b, w := s.mat(rows, hidden), s.mat(rows, hidden), s.buffer(kernel.F32, hidden)
	half := b.ColRange(0, hidden/2)
	inv := make([]float32, headDim/2)
	rope, err := s.dev.NewRope(inv, 1, kvContext)
	if err != nil {
		s.fail(err)
	}
	pos, list, offsets := make([]int32, rows), make([]int32, rows), make([]int32, rows+1)
	for i := range pos {
		pos[i], list[i], offsets[i+1] = int32(i%kvContext), int32(rows-1-i), int32(i+1)
	}
	bf16 := s.coded(kernel.RowBF16, rows, hidden)
	int8 := s.coded(kernel.RowInt8, rows, hidden)
	logits := a.ColRange(0, 128)
	idx, weight := s.buffer(kernel.I32, rows*topK), s.buffer(kernel.F32, rows*topK)
	n := float64(rows * hidden * 4)
	row := func(name string, matrices float64, run func()) *kernelCase {
		return &kernelCase{name: fmt.Sprintf("%s, %d × %d", name, rows, hidden), bytes: matrices * n, calls: 1, run: func(int) { run() }}
	}
	return []*kernelCase{
		row("RMSNorm", 2, func() { s.dev.RMSNorm(b, a, w, 1, 1e-6) }),
		row("RoPE", 1, func() { s.dev.RoPE(b, rope, kernel.RopeParams{HeadDim: headDim}, pos) }),
		row("SwiGLU", 1.5, func() { s.dev.SwiGLU(half, a, kernel.SwiGLUParams{}) }),
		row("Add", 2, func() { s.dev.Add(b, b, a) }),
		row("Combine, 1 part", 2, func() { s.dev.Combine(b, b, a, list, offsets) }),
		row("CopyRows", 2, func() { s.dev.CopyRows(b, nil, a, list) }),
		row("EncodeRows bf16", 1.5, func() { s.dev.EncodeRows(bf16, a, list) }),
		row("DecodeRows bf16", 1.5, func() { s.dev.DecodeRows(b, nil, bf16, list) }),
		row("EncodeRows int8", 1.25, func() { s.dev.EncodeRows(int8, a, list) }),
		row("DecodeRows int8", 1.25, func() { s.dev.DecodeRows(b, nil, int8, list) }),
		row("ScaleRows", 1, func() { s.dev.ScaleRows(b, a.ColRange(0, 1)) }),
		{name: fmt.Sprintf("TopK, %d × 128", rows), bytes: n * 128 / hidden, calls: 1,
			run: func(int) { s.dev.TopK(idx, weight, logits, kernel.RouterParams{TopK: topK, Normalize: true}) }},
	}
}
