// Package checkpoint owns files of weights in the safetensors format: one file
// or shards, whose headers are validated whole before anything is read; loading
// in parallel; what identifies weights, and their comparison; and writing. It
// knows names, types, shapes and bytes; it may not know what a tensor means, nor
// arithmetic.
//
// # The format
//
// A file is the length n of a header (8 bytes, little-endian), n bytes of JSON,
// and data. The JSON maps a tensor's name to
//
//	{"dtype": "BF16", "shape": [out, in], "data_offsets": [begin, end]}
//
// with offsets from the start of the data, and "__metadata__" to strings. The
// tensors cover the data without holes or overlaps. An index
// (model.safetensors.index.json) maps each tensor's name to its file; it says
// which files there are, and the files say what they hold.
// https://huggingface.co/docs/safetensors describes both.
package checkpoint
