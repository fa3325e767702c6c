// Package lint owns the house's rules that are tests: which package may import
// which, that each says what it owns, and what no file may contain. It has no
// code that runs, and it may not know what a package does.
//
// A test's message names the rule's reason and the remedy.
package lint
