// Package layer owns the parts of a model: attention (with embedding, norms,
// router and head) and experts, as compositions of kernels over weights that it
// loads. It may not know networks, processes or how rows travel between the
// parts.
package layer
