// Package model owns what a model is: its Spec, read from a Hugging Face
// config.json and checked; the names and shapes of its tensors; the tensors that
// a role needs; and the defaults of its generation_config.json. It may not know
// arithmetic, files of weights, networks or processes.
//
// A configuration is never half understood. A family, a rope type or a field
// that this package does not implement and that could change the model's output
// is an error that names the field and its value.
package model
