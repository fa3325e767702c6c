package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/tandem-moe/tandem/internal/docs"
)

// TestPageFlags holds docs/flags.md to the command line that is parsed.
func TestPageFlags(t *testing.T) {
	docs.Hold(t, filepath.Join("..", ".."), "flags.md", "flags", flagsPage(parser(t).Model.Node))
}

// flagsPage describes a command, and all below it.
func flagsPage(n *kong.Node) string {
	var page strings.Builder
	page.WriteString("## " + title(n) + "\n\n" + n.Help + "\n")
	if args := arguments(n); len(args) > 0 {
		page.WriteString("\n" + docs.Table([]string{"argument", "what it is"}, args))
	}
	for _, group := range groups(n) {
		page.WriteString("\n")
		if group != "" {
			page.WriteString(group + "\n\n")
		}
		page.WriteString(docs.Table([]string{"flag", "default", "environment", "what it does"}, flagRows(n, group)))
	}
	for _, c := range n.Children {
		if !c.Hidden {
			page.WriteString("\n" + flagsPage(c))
		}
	}
	return page.String()
}

func title(n *kong.Node) string {
	if n.Parent == nil {
		return "All commands"
	}
	return "`" + commandPath(n) + "`"
}

func arguments(n *kong.Node) (rows [][]string) {
	for _, p := range n.Positional {
		rows = append(rows, []string{"`" + p.Summary() + "`", p.Help})
	}
	return rows
}

// groups are the titles of a command's groups of flags, in their order; flags in
// none come first.
func groups(n *kong.Node) (titles []string) {
	for _, f := range n.Flags {
		if title := groupOf(f); !f.Hidden && !slices.Contains(titles, title) {
			titles = append(titles, title)
		}
	}
	slices.SortStableFunc(titles, func(a, b string) int { return min(len(a), 1) - min(len(b), 1) })
	return titles
}

func groupOf(f *kong.Flag) string {
	if f.Group == nil {
		return ""
	}
	return f.Group.Title
}

func flagRows(n *kong.Node, group string) (rows [][]string) {
	for _, f := range n.Flags {
		if f.Hidden || groupOf(f) != group {
			continue
		}
		rows = append(rows, []string{flagName(f), code(flagDefault(f)), code(strings.Join(f.Envs, ", ")), f.Help})
	}
	return rows
}

// flagName is how a flag is written.
func flagName(f *kong.Flag) string {
	name := "--" + f.Name
	if !f.IsBool() {
		name += "=" + valueName(f)
	}
	if f.Short != 0 {
		name = "-" + string(f.Short) + ", " + name
	}
	if f.Required {
		return code(name) + " (required)"
	}
	return code(name)
}

// valueName stands for a flag's value.
func valueName(f *kong.Flag) string {
	if f.PlaceHolder != "" {
		return f.PlaceHolder
	}
	return strings.ToUpper(f.Name[strings.LastIndex(f.Name, "-")+1:])
}

// flagDefault is the value of a flag that is not given; a bool's is no.
func flagDefault(f *kong.Flag) string {
	if f.HasDefault && f.Default != "" {
		return f.Default
	}
	return ""
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}
