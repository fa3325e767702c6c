package main

import (
	"os/signal"
	"syscall"
)

// outliveLogReaders lets a server go on when whoever reads its log leaves: a pager
// that is closed, a log shipper that restarts. Go ends a process whose write to
// standard output or standard error finds no reader, even where the signal is
// ignored for it as systemd does, unless the program itself asks for that. Writes
// then fail, and a line of log that nobody reads is lost without harm. Filters
// leave it as it is: "tandem tokenize | head" is to end with head.
func outliveLogReaders() { signal.Ignore(syscall.SIGPIPE) }
