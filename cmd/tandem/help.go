package main

import (
	"fmt"

	"github.com/alecthomas/kong"
)

// HelpCmd shows the help of a command, as fingers that know git or go ask for it.
type HelpCmd struct {
	Command []string `arg:"" optional:"" help:"The command, such as: bench serve. Default: an overview."`
}

// Run prints the help and ends the program.
func (c *HelpCmd) Run(command *kong.Context) error {
	_, err := command.Kong.Parse(append(c.Command, "--help"))
	return err
}

// VersionCmd prints the version.
type VersionCmd struct{}

// Run prints one line.
func (*VersionCmd) Run() error {
	_, err := fmt.Println("tandem " + version)
	return err
}
