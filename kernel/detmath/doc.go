// Package detmath owns the elementary functions of every result: exp, log, sin,
// cos, pow, the sigmoid and the exact fused multiply-add, bit-identical on every
// architecture and at every GOAMD64 level.
//
// Package math does not give that: its Exp, Log, Cos and Pow are assembly on
// some targets and Go on others, and the compiler may fuse x*y + z where the
// target can. So the functions here are built only from operations that IEEE 754
// defines exactly (+, −, ×, ÷, conversion, the fused multiply-add), each product is either
// fused or converted explicitly (the compiler fuses across statements and calls
// that it inlines), and from
// package math they take FMA, Abs, Floor and the bit functions alone.
//
// The float32 functions are also what the vector kernels compute lane by lane:
// the assembly follows [Exp32] step by step. Which NaN comes out is not defined,
// only that one does.
//
// It may not know buffers, devices or vectors.
package detmath
