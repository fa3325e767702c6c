package checkpoint

// DType is an element type, by the name that safetensors has for it.
type DType string

// Types that weights may have.
const (
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
)

// bits are the sizes of all types that the format knows: a checkpoint may hold
// a tensor that is never read.
var bits = map[DType]int64{
	"F64": 64, "I64": 64, "U64": 64, "C64": 64,
	F32: 32, "I32": 32, "U32": 32,
	F16: 16, BF16: 16, "I16": 16, "U16": 16,
	"I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
	"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}

// Weight says whether a weight may have this type.
func (d DType) Weight() bool { return d == F32 || d == F16 || d == BF16 }

// Size returns the bytes of one element of a weight's type.
func (d DType) Size() int64 { return bits[d] / 8 }
