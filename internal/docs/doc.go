// Package docs owns what keeps the documents true: sections that are made from
// the code are up to date, shell blocks run, and error texts are ones that the
// code has. It may not know what a document is about: whoever owns a list, such
// as a table of metrics, writes it, and only tests import this package.
package docs

//go:generate go test -C ../.. ./api ./cmd/tandem ./schedule ./telemetry -run ^TestPage -update
