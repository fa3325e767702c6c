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

// Lanes is the width of the fixed reduction tree. After each lane has summed
// its own elements in order, lanes are folded by halves: lane j += lane j+8 for
// j < 8, then j+4 for j < 4, j+2 for j < 2, and lane 0 + lane 1.
const Lanes = 16

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

// HostMatrix is a weight as a checkpoint stores it: Out rows of In elements,
// row-major, little-endian. In is a whole number of DType's blocks.
type HostMatrix struct {
	DType DType
	Out   int
	In    int
	Data  []byte
	// Scales lie beside the elements; nil means that there are none.
	Scales *Scales
}

// Scales multiply the elements of a matrix, one for each tile of Rows rows and Cols
// columns: [⌈Out/Rows⌉, ⌈In/Cols⌉] of them, row-major, F32 or E8M0. DeepSeek-V3's
// tiles are 128 × 128, gpt-oss's 1 × 32.
type Scales struct {
	DType      DType
	Rows, Cols int
	Data       []byte
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

// KV is one layer's paged cache: for each token Heads keys of KeyDim elements and
// Heads values of ValueDim. Layers may differ in all three. Page p starts at element
// KeyOff + p·PageTokens·Heads·KeyDim of K and at element
// ValueOff + p·PageTokens·Heads·ValueDim of V (both F32). Inside a page:
//
//	K: [Heads][PageTokens/KVBlock][KeyDim][KVBlock]
//	V: [Heads][PageTokens][ValueDim]
type KV struct {
	K, V             Buffer
	KeyOff, ValueOff int
	PageTokens       int // a multiple of KVBlock that divides Span or is a multiple of it
	Heads            int // key and value heads
	KeyDim           int // elements of a key, and of a query
	ValueDim         int // elements of a value, and of a result
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
	Heads  int     // query heads; Heads/KV.Heads of them share a KV head
	Scale  float32 // multiplies q·k after its chain
	Window int     // a query at position p sees keys p-Window+1 … p; 0 means all
	// Sinks holds a logit for each query head (F32, [Heads]) that joins the softmax's
	// denominator and has no value: exp(sink) is added to the sum of the scores'
	// exponentials (https://arxiv.org/abs/2309.17453; gpt-oss learns them). nil means
	// none.
	Sinks Buffer
}

// RopeParams says which elements of a head are rotated: First … First+2n-1, where n
// is the number of frequencies of the table.
type RopeParams struct {
	HeadDim int // columns of a head
	First   int // the first rotated element of a head
	// Interleaved says that elements First+2i and First+2i+1 form pair i; otherwise
	// elements First+i and First+i+n do.
	Interleaved bool
}

// Rope holds the cosines and sines of rotary position embedding for positions
// 0 … Positions-1, made by [Attention.NewRope].
type Rope interface {
	Positions() int
	// Pairs is the number of frequencies.
	Pairs() int
}

// SwiGLUParams shapes a SwiGLU as gpt-oss has it; the zero value is silu(g)·u. With
// g' = min(g, Limit) and u' = u limited to [-Limit, Limit] the result is
// g'·sigmoid(Alpha·g') · (u' + Offset).
type SwiGLUParams struct {
	Limit  float32 // 0 means none
	Alpha  float32 // 0 means 1
	Offset float32
}

// Scores is the function that turns a router's logits into scores.
type Scores uint8

const (
	// Softmax is over all experts.
	Softmax Scores = iota
	// Sigmoid is 1/(1+e⁻ˣ) of each logit by itself.
	Sigmoid
)

// RouterParams says how a router's logits become choices and weights. The zero
// value of each field but TopK is the plain form: the TopK largest of the
// softmax's scores are the weights.
type RouterParams struct {
	TopK   int
	Scores Scores
	// Bias (F32, one for each expert) is added to the scores for the choice, and not
	// to the weights; nil means none (https://arxiv.org/abs/2408.15664).
	Bias Buffer
	// Groups, where it is not 0, cuts the experts into that many equal runs, of which
	// only the TopGroups best may be chosen from, ties to the lower. A group's rank is
	// the sum of its GroupBest largest scores, bias included, largest first. DeepSeek-V3
	// sums 2 (https://arxiv.org/abs/2412.19437, section 2.1.2), DeepSeek-V2 takes 1.
	Groups, TopGroups, GroupBest int
	// Normalize divides the chosen weights by their sum, best first.
	Normalize bool
	// Scale multiplies the weights at the end; 0 means 1.
	Scale float32
}
