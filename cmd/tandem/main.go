// Command tandem serves mixture-of-experts language models with attention and
// experts on separate nodes. Each subcommand is a file.
package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// version is the program's. Nodes of a cluster must run the same one.
const version = "0.1.0"

// cli is the command line.
type cli struct {
	Serve    ServeCmd    `cmd:"" help:"Serve a model over HTTP, as OpenAI does: all in one process, or the front end of nodes."`
	Node     NodeCmd     `cmd:"" help:"Run one attention or expert node of a cluster."`
	Generate GenerateCmd `cmd:"" help:"Continue a prompt in the terminal."`
	Chat     ChatCmd     `cmd:"" help:"Talk to a model in the terminal."`
	Tokenize TokenizeCmd `cmd:"" help:"Turn standard input into token ids, and back."`
	Certs    CertsCmd    `cmd:"" help:"Make the certificates by which the members of a cluster know each other."`
	Bench    BenchCmd    `cmd:"" help:"Measure this machine, and Tandem on it."`
	Schedule ScheduleCmd `cmd:"" help:"Make, read, prove and draw schedules: which rank computes what, and in which order."`
	HelpOf   HelpCmd     `cmd:"" name:"help" help:"Show what a command does."`
	Print    VersionCmd  `cmd:"" name:"version" help:"Print the version."`

	LogLevel slog.Level       `help:"Least level that is logged: debug, info, warn, error." default:"info" env:"TANDEM_LOG_LEVEL"`
	LogJSON  bool             `help:"Log as JSON: every line of standard error is an object." name:"log-json" env:"TANDEM_LOG_JSON"`
	Version  kong.VersionFlag `help:"Print the version."`
}

func main() {
	os.Exit(run(os.Args[1:]))
}

// run parses the command line and runs a subcommand.
func run(args []string) int {
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		panic(err) // the command line's own description is broken
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	s := newScreen(os.Stderr, c.LogLevel, c.LogJSON || err != nil && logsJSON(args))
	if err == nil {
		slog.SetDefault(s.log) // what libraries log goes the same way
		command.Bind(s.log, s)
		err = command.Run()
	}
	var mistake *kong.ParseError
	switch {
	case err == nil || errors.Is(err, context.Canceled):
		return 0
	case errors.As(err, &mistake):
		s.fail(err, commandOf(err)+" --help")
		return 2
	default:
		s.fail(err, "")
		return 1
	}
}

func newParser(c *cli) (*kong.Kong, error) {
	return kong.New(c, kong.Name("tandem"), kong.Vars{"version": "tandem " + version}, kong.BindToProvider(untilSignal),
		kong.Description("Tandem serves mixture-of-experts language models, attention and experts on separate nodes. "+
			"\"tandem serve\" starts right away, with a small model that is built in."))
}

// untilSignal returns a context that ends with the first signal, for subcommands
// that end in good order. A second signal ends the process at once.
func untilSignal() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		second := (<-signals).(syscall.Signal)
		os.Exit(128 + int(second)) // as shells report it
	}()
	return ctx
}

// commandOf is the command that a mistake on the command line was made in.
func commandOf(err error) string {
	var mistake *kong.ParseError
	if errors.As(err, &mistake) {
		if c := mistake.Context.Selected(); c != nil {
			return c.FullPath()
		}
	}
	return "tandem"
}
