// Package kernel owns arithmetic: a Device is an in-order queue of primitives
// with the typed memory they work on. It knows rows, columns and weights; it
// may not know models, layers or networks.
//
// # Numerics
//
// A row's result depends on that row alone: not on the batch, the place in it,
// the number of threads, the vector width or the instruction set. Therefore
// every implementation of a primitive follows the same arithmetic, bit for bit:
//
//   - An output element of a matrix product is one chain of fused
//     multiply-adds over the inner dimension, in order, starting from +0.
//     Kernels are vectorised over outputs, never over the inner dimension.
//     A bias is added afterwards, a plain addition.
//   - A reduction that must be a tree (norms, softmax sums) has Lanes lanes:
//     lane j takes the elements j, j+Lanes, … in order, then the lanes are
//     added as ((0+8)+(4+12))+…, see [Lanes].
//   - exp, log, sin and the like are the polynomials of kernel/detmath on every
//     path.
//   - Denormals are kept. A NaN is any NaN: which of two survives is the
//     processor's choice.
//
// A Device that cannot keep this contract is a numerics of its own and says so
// in its name.
package kernel

import "context"

// Lanes is the width of the fixed reduction tree. After each lane has summed
// its own elements in order, lanes are folded by halves: lane j += lane j+8 for
// j < 8, then j+4 for j < 4, j+2 for j < 2, and lane 0 + lane 1.
const Lanes = 16

// DType is the type of a buffer's or a weight's elements.
type DType uint8

// Element types. Weights are F32, F16 or BF16 and are widened exactly;
// activations are F32; indices are I32.
const (
	F32 DType = iota
	F16
	BF16
	I32
)

// Size returns the bytes of one element.
func (d DType) Size() int {
	if d == F16 || d == BF16 {
		return 2
	}
	return 4
}

// String returns the name that numerics and error messages use.
func (d DType) String() string {
	switch d {
	case F32:
		return "f32"
	case F16:
		return "f16"
	case BF16:
		return "bf16"
	case I32:
		return "i32"
	}
	return "unknown"
}

// Buffer is a contiguous, typed piece of a device's memory.
type Buffer interface {
	DType() DType
	// Len is the number of elements.
	Len() int
	// Bytes is the host's view of the memory, little-endian, or nil where the
	// host cannot address it. What it holds is defined only once an Event
	// recorded after the last operation that writes it has completed.
	Bytes() []byte
}

// Mat is a view of an F32 buffer: Rows rows of Cols elements; row r starts at
// element Off + r·Stride.
type Mat struct {
	Buf    Buffer
	Off    int
	Rows   int
	Cols   int
	Stride int
}

// MatOf views the start of a buffer as rows × cols, densely.
func MatOf(b Buffer, rows, cols int) Mat {
	return Mat{Buf: b, Rows: rows, Cols: cols, Stride: cols}
}

// RowRange is the view of rows lo to hi.
func (m Mat) RowRange(lo, hi int) Mat {
	m.Off += lo * m.Stride
	m.Rows = hi - lo
	return m
}

// ColRange is the view of columns lo to hi.
func (m Mat) ColRange(lo, hi int) Mat {
	m.Off += lo
	m.Cols = hi - lo
	return m
}

// Event marks a place in a device's queue.
type Event interface {
	// Wait returns nil once everything enqueued before the event has completed,
	// the device's error where something failed, or ctx's error.
	Wait(ctx context.Context) error
}

// HostMatrix is a weight as a checkpoint stores it: Out rows of In elements,
// row-major, little-endian.
type HostMatrix struct {
	DType DType
	Out   int
	In    int
	Data  []byte
}

// Weight is a matrix packed for products: immutable, and shared by all devices
// of one kind in a process.
type Weight interface {
	// Out and In are the dimensions of the matrix [Out, In].
	Out() int
	In() int
	DType() DType
	// Size is the bytes it occupies.
	Size() int64
}

// KVBlock is the number of keys that attention reads as one vector; a page
// holds a whole number of blocks.
const KVBlock = 16

// Span is the number of absolute positions that attention reduces by itself,
// before spans are merged left to right. It is part of the numerics' name.
const Span = 256

// KV is one layer's paged cache. Page p starts at element
// Off + p·PageTokens·KVHeads·HeadDim of both buffers (F32). Inside a page:
//
//	K: [KVHeads][PageTokens/KVBlock][HeadDim][KVBlock]
//	V: [KVHeads][PageTokens][HeadDim]
type KV struct {
	K, V       Buffer
	Off        int
	PageTokens int // a multiple of KVBlock that divides Span or is a multiple of it
	KVHeads    int
	HeadDim    int
}

// Sequence says that rows Row … Row+Rows-1 of a batch are the consecutive
// positions Pos … Pos+Rows-1 of one sequence, whose position p lies in page
// Pages[p/PageTokens].
type Sequence struct {
	Row   int
	Rows  int
	Pos   int
	Pages []int32
}

// AttentionParams is the shape of an attention operation.
type AttentionParams struct {
	Heads  int     // query heads; Heads/KVHeads of them share a KV head
	Scale  float32 // multiplies q·k after its chain
	Window int     // a query at position p sees keys p-Window+1 … p; 0 means all
}

// RouterParams says how expert scores become choices and gate weights.
type RouterParams struct {
	TopK      int
	Normalize bool // divide the chosen weights by their sum
}

// Rope holds the cosines and sines of rotary position embedding for positions
// 0 … Positions-1, made by [Device.NewRope].
type Rope interface {
	Positions() int
}

// Device is an in-order queue of primitives. Operations return at once where
// the device is asynchronous; the slices passed to them are read before they
// return. Shapes that disagree are a broken invariant and panic; what fails on
// the device is kept and returned by the next Event's Wait. A Device is used by
// one goroutine at a time.
type Device interface {
	// Name describes it for people: "cpu avx512, 2 threads".
	Name() string
	// Close ends what the device owns.
	Close() error

	// Alloc returns n elements of zeroed memory.
	Alloc(t DType, n int) (Buffer, error)
	// Adopt makes a buffer of the host's memory, aligned to 64 bytes, which stays
	// its owner's until Free. Errors: errors.ErrUnsupported where the device cannot
	// address it.
	Adopt(t DType, mem []byte) (Buffer, error)
	// Free gives the memory back once what is enqueued has used it.
	Free(b Buffer)
	// Load enqueues a copy of host bytes to elements off… of dst.
	Load(dst Buffer, off int, src []byte)
	// Record returns an event for all that has been enqueued so far.
	Record() Event

	// Pack concatenates matrices of equal In along Out and packs them. Parts of
	// different types are widened to F32.
	Pack(parts ...HostMatrix) (Weight, error)
	// Vector loads n elements of a checkpoint's vector, widened to F32.
	Vector(t DType, data []byte) (Buffer, error)
	// NewRope tabulates cos(p·inv[i])·scale and sin(p·inv[i])·scale for
	// positions p < positions. The angle is the f32 product of p and inv[i].
	NewRope(inv []float32, scale float32, positions int) (Rope, error)

	// Embed writes row ids[r] of the table to row r of dst.
	Embed(dst Mat, table Weight, ids []int32)
	// Linear is dst = src·wᵀ, plus the bias where it is not nil.
	Linear(dst, src Mat, w Weight, bias Buffer)
	// GroupedLinear is Linear of rows offsets[g] … offsets[g+1]-1 with w[g].
	GroupedLinear(dst, src Mat, w []Weight, offsets []int32)
	// RMSNorm normalises each of the groups equal parts of each row by its root
	// mean square, and multiplies by w, which has Cols/groups elements or Cols.
	// dst may be src.
	RMSNorm(dst, src Mat, w Buffer, groups int, eps float32)
	// Clamp limits x to [-limit, limit].
	Clamp(x Mat, limit float32)
	// RoPE rotates each head of headDim columns of row r for position pos[r]:
	// elements i and i+headDim/2 form a pair.
	RoPE(x Mat, headDim int, t Rope, pos []int32)
	// StoreKV writes the rows of k and v [rows, KVHeads·HeadDim] to the cache, at
	// the sequences' positions.
	StoreKV(c KV, k, v Mat, seqs []Sequence)
	// Attention is softmax(q·kᵀ·Scale)·v over the cached keys that each row
	// sees. q and dst are [rows, Heads·HeadDim].
	Attention(dst, q Mat, c KV, seqs []Sequence, p AttentionParams)
	// SwiGLU is dst = silu(g)·u, where a row of gateUp is g followed by u.
	SwiGLU(dst, gateUp Mat)
	// ScaleRows multiplies row r of x by element r of scale, an F32 view of one
	// column.
	ScaleRows(x, scale Mat)
	// Add is dst = a + b; dst may be either.
	Add(dst, a, b Mat)
	// TopK takes the softmax of each row of logits over all columns and writes
	// the TopK best columns, best first and ties to the lower, to idx (I32,
	// rows·TopK) and their weights to weight (F32, rows·TopK).
	TopK(idx, weight Buffer, logits Mat, p RouterParams)
	// CopyRows is dst[dstRows[i]] = src[srcRows[i]]; nil rows mean 0, 1, 2, ….
	CopyRows(dst Mat, dstRows []int32, src Mat, srcRows []int32)
	// EncodeRows is dst[i] = src[srcRows[i]] in dst's format; nil rows mean 0, 1,
	// 2, ….
	EncodeRows(dst CodedMat, src Mat, srcRows []int32)
	// DecodeRows is CopyRows from rows in a format.
	DecodeRows(dst Mat, dstRows []int32, src CodedMat, srcRows []int32)
	// Combine is dst[r] = (residual[r] + parts[rows[i]]) + parts[rows[i+1]] + …,
	// for i from offsets[r] to offsets[r+1]. Without a residual, which has no
	// buffer then, the sum starts with its first part, and is 0 where there is
	// none. dst may be residual.
	Combine(dst, residual, parts Mat, rows, offsets []int32)
	// LogSumExp writes the logarithm of the sum of each row's exponentials to the
	// first column of dst; not finite where a logit is not.
	LogSumExp(dst, logits Mat)
}
