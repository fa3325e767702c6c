// Package tandemv1 owns the messages between the processes of a cluster: their
// generated code, and one table of what each field may hold. It may not know what
// a message means or who sends it.
package tandemv1
