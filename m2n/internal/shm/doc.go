// Package shm is the memory that two processes of one host share: segments and how
// they are passed on (Linux), the [Ring] by which messages of one direction travel,
// and the [Doorbell] by which one process tells another that a ring has something.
//
// The package moves bytes between slots and knows no pair, credit or completion; it
// does not decide when a message is sent or when a slot is free. Whatever the peer can
// write may hold anything and may change at any time: the package copies it, checks
// the copy and uses only the copy. Errors that are the peer's mistake wrap
// [wire.ErrBadFrame].
package shm
