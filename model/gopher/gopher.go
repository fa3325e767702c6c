// Package gopher owns the model that is built into the binary: a small
// Qwen3-MoE that completes Go code, in Hugging Face form. README.md beside it
// tells what it can do, how it was trained, and its licence; it was trained on
// Go's standard library (LICENSE.corpus). It may not know how a model is
// computed.
package gopher

import (
	"embed"
	"io/fs"

	"github.com/tandem-moe/tandem/model/checkpoint"
)

// Name is the name that the model is served under.
const Name = "gopher"

//go:embed config.json generation_config.json tokenizer.json tokenizer_config.json
var files embed.FS

// weights lie in the binary itself and are never copied.
//
//go:embed model.safetensors
var weights []byte

// Files holds the model's small files: config.json, generation_config.json,
// tokenizer.json and tokenizer_config.json.
func Files() fs.FS { return files }

// Open opens the weights in place. Closing the checkpoint gives nothing back.
func Open() (*checkpoint.Checkpoint, error) {
	return checkpoint.OpenBytes("gopher/"+checkpoint.SingleFile, weights)
}
