package kernel

import (
	"context"
	"fmt"
	"strings"
)

// Device serves a whole model: attention, router, experts and vocabulary. It is the
// union of small interfaces, one for each use, and code asks for the interfaces that it
// uses. A device implements the interfaces of the operations that it can compute: one
// without attention implements [ExpertDevice] and serves expert nodes, and training will
// add interfaces that a device for serving does without.
//
// A device is an in-order queue. Where it is asynchronous, operations return before they
// have run. An operation reads the slices that it is given before it returns; only the
// destination of Read is used later. Shapes that disagree are a broken invariant and
// panic. An error of the device itself is kept and returned by the Wait of the next
// Event. One goroutine at a time uses a device.
//
// An operation writes buffers of its own device. It reads buffers of its own device,
// vectors that another device of the same kind has loaded, and host-visible memory of
// any device of the process: so rows pass between nodes of one process without a copy.
type Device interface {
	ExpertDevice
	Vocabulary
	Attention
	Router
}

// ExpertDevice has the operations of an expert node: those that compute experts, and
// those that exchange rows with attention nodes.
type ExpertDevice interface {
	Memory
	Queue
	Products
	Elementwise
	RowMover
}

// MemoryKind says where memory is, and whether the host can address it.
type MemoryKind uint8

const (
	// DeviceMemory is where operations are fastest. The host may be unable to
	// address it ([Buffer.Bytes] is nil then), and uses Load and Read.
	DeviceMemory MemoryKind = iota
	// HostVisible is memory that both the device and the host address. A transport
	// registers it, and Read fills it without another copy.
	HostVisible
)

// String returns the kind's name.
func (k MemoryKind) String() string {
	switch k {
	case DeviceMemory:
		return "device memory"
	case HostVisible:
		return "host-visible memory"
	}
	return fmt.Sprintf("MemoryKind(%d)", uint8(k))
}

// Buffer is a contiguous, typed piece of a device's memory.
type Buffer interface {
	DType() DType
	// Len is the number of elements.
	Len() int
	// Bytes is the host's view of the memory, little-endian, or nil where the host
	// cannot address it. The host may read the elements that an operation writes once
	// an Event recorded after that operation has completed. The host may write to
	// host-visible memory alone: operations enqueued afterwards read its bytes, and it
	// writes there again only once they have completed.
	Bytes() []byte
}

// Event marks a place in a device's queue.
type Event interface {
	// Wait returns nil once everything enqueued before the event has completed,
	// the device's error where something failed, or ctx's error. A transport first
	// calls it with a context that has ended, to learn without waiting whether the
	// event has completed: Wait returns nil then if it has, and ctx's error at once
	// if it has not.
	Wait(ctx context.Context) error
}

// Properties describe a device.
type Properties struct {
	// Name is for people: "cpu avx512, 2 threads".
	Name string
	// Threads is how many of the host's threads take part in an operation at most.
	Threads int
	// Memory lists the kinds of memory that Alloc gives.
	Memory []MemoryProperties
	// Matrices lists the element types that Pack takes.
	Matrices []DType
	// Capabilities are the forms of operations that not every device has.
	Capabilities Capabilities
}

// MemoryProperties describe a device's memory of one kind.
type MemoryProperties struct {
	Kind MemoryKind
	// Bytes is the memory's size; 0 means that it is a part of the host's.
	Bytes int64
}

// Capabilities is a set of forms of operations beyond the plainest. The zero value of
// a parameter is the plain form, which every device has; another value needs the
// capability that names the parameter. Where a device lacks the capability, Adopt returns
// errors.ErrUnsupported, and other operations panic as they are called: a caller of such
// a form has called [Properties.Require] before.
type Capabilities uint32

// The capabilities.
const (
	// AdoptsMemory: Adopt makes buffers of the host's memory. Without it, the device's
	// node shares no memory with others of its host.
	AdoptsMemory Capabilities = 1 << iota
	// ValueDims: values of a KV cache are of another width than keys.
	ValueDims
	// Windows: AttentionParams.Window.
	Windows
	// Sinks: AttentionParams.Sinks.
	Sinks
	// PartialRope: fewer columns than a head's are rotated.
	PartialRope
	// InterleavedRope: RopeParams.Interleaved.
	InterleavedRope
	// SigmoidScores: RouterParams.Scores may be Sigmoid.
	SigmoidScores
	// RouterBias: RouterParams.Bias.
	RouterBias
	// RouterGroups: RouterParams.Groups.
	RouterGroups
	// GroupedBias: GroupedLinear with biases.
	GroupedBias
	// ShapedSwiGLU: SwiGLUParams that are not zero.
	ShapedSwiGLU

	endOfCapabilities
)

// AllCapabilities is the set of all.
const AllCapabilities = endOfCapabilities - 1

var capabilityNames = [...]string{
	"adopting the host's memory", "values of another width than keys", "attention windows", "attention sinks",
	"rotating a part of a head", "rotating interleaved pairs", "a router with sigmoid scores", "a router with a bias",
	"a router with groups",
	"biases of grouped products", "a SwiGLU of another shape than silu(g)·u",
}

// String lists the capabilities for people.
func (c Capabilities) String() string {
	var names []string
	for i, name := range capabilityNames {
		if c&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

// Require returns an error that names the capabilities of need that the device lacks.
func (p Properties) Require(need Capabilities) error {
	if missing := need &^ p.Capabilities; missing != 0 {
		return fmt.Errorf("the device %q cannot do what the model needs: %v", p.Name, missing)
	}
	return nil
}

// Memory is a device's memory, and the ways in and out of it.
type Memory interface {
	Properties() Properties
	// Alloc returns n elements of zeroed memory.
	Alloc(kind MemoryKind, t DType, n int) (Buffer, error)
	// Adopt makes a host-visible buffer of the host's memory, aligned to 64 bytes,
	// which stays its owner's until Free. Errors: errors.ErrUnsupported where the
	// device cannot address it.
	Adopt(t DType, mem []byte) (Buffer, error)
	// Free gives the memory back once the operations enqueued so far have completed.
	Free(b Buffer)
	// Vector loads a checkpoint's vector, widened to F32, to device memory.
	Vector(t DType, data []byte) (Buffer, error)
	// Load enqueues a copy of host bytes to elements off… of dst.
	Load(dst Buffer, off int, src []byte)
	// Read enqueues a copy of elements off… of src to the host's memory dst, a whole
	// number of elements. The bytes are there, and dst is the caller's again, once
	// an Event recorded afterwards has completed. A device may need a copy more
	// where dst is not host-visible memory of its own.
	Read(dst []byte, src Buffer, off int)
}

// Queue is the order in which a device computes.
type Queue interface {
	// Record returns an event for all that has been enqueued so far.
	Record() Event
	// WaitFor enqueues a wait for another device's event: operations enqueued
	// afterwards begin once the event has completed. An event that fails, or does not
	// complete within a minute, fails this device.
	WaitFor(e Event)
	// Close runs what is enqueued and ends the device's goroutines. Buffers are freed
	// before.
	Close() error
}

// Products multiplies rows by matrices.
type Products interface {
	// Pack concatenates matrices of equal In along Out and packs them. Parts of
	// different types are widened to F32.
	Pack(parts ...HostMatrix) (Weight, error)
	// Linear is dst = src·wᵀ, plus the bias where it is not nil.
	Linear(dst, src Mat, w Weight, bias Buffer)
	// GroupedLinear is Linear of rows offsets[g] … offsets[g+1]-1 with w[g] and
	// bias[g]. A nil bias means that no group has one.
	GroupedLinear(dst, src Mat, w []Weight, bias []Buffer, offsets []int32)
}

// Elementwise computes with the elements of rows.
type Elementwise interface {
	// RMSNorm normalises each of the groups equal parts of each row by its root
	// mean square, and multiplies by w, which has Cols/groups elements or Cols.
	// dst may be src.
	RMSNorm(dst, src Mat, w Buffer, groups int, eps float32)
	// Clamp limits x to [-limit, limit].
	Clamp(x Mat, limit float32)
	// SwiGLU is dst = silu(g)·u, or as p says, where a row of gateUp is g followed by
	// u.
	SwiGLU(dst, gateUp Mat, p SwiGLUParams)
	// ScaleRows multiplies row r of x by element r of scale, an F32 view of one
	// column.
	ScaleRows(x, scale Mat)
	// Add is dst = a + b; dst may be either.
	Add(dst, a, b Mat)
}

// RowMover gathers, scatters and adds up rows, and narrows them to the formats in
// which they travel.
type RowMover interface {
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
}

// Vocabulary turns tokens into rows, and computes the normalisation of logits.
type Vocabulary interface {
	// Embed writes row ids[r] of the table to row r of dst.
	Embed(dst Mat, table Weight, ids []int32)
	// LogSumExp writes the logarithm of the sum of each row's exponentials to the
	// first column of dst; not finite where a logit is not.
	LogSumExp(dst, logits Mat)
}

// Attention rotates queries and keys, and attends to a paged cache.
type Attention interface {
	// NewRope tabulates cos(p·inv[i])·scale and sin(p·inv[i])·scale for
	// positions p < positions. The angle is the f32 product of p and inv[i].
	NewRope(inv []float32, scale float32, positions int) (Rope, error)
	// RoPE rotates a part of each head of row r for position pos[r]; p says which
	// part, and which elements form pairs.
	RoPE(x Mat, t Rope, p RopeParams, pos []int32)
	// StoreKV writes the rows of k [rows, Heads·KeyDim] and v [rows,
	// Heads·ValueDim] to the cache, at the sequences' positions.
	StoreKV(c KV, k, v Mat, seqs []Sequence)
	// Attention is softmax(q·kᵀ·Scale)·v over the cached keys that each row sees.
	// q is [rows, p.Heads·KeyDim], dst [rows, p.Heads·ValueDim].
	Attention(dst, q Mat, c KV, seqs []Sequence, p AttentionParams)
}

// Router chooses experts.
type Router interface {
	// TopK turns each row of logits, one for each expert, into scores, and writes
	// the TopK best experts, best first and ties to the lower, to ids (I32,
	// rows·TopK) and their weights to weights (F32, rows·TopK), as p says.
	TopK(ids, weights Buffer, logits Mat, p RouterParams)
}
