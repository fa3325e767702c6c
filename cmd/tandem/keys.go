package main

import (
	"errors"
	"strings"

	"github.com/alecthomas/kong"
)

// apiKeys are the keys of the API's clients, without white space around them: one
// that was read from a file often ends with a newline.
type apiKeys []string

// Decode adds the keys of a flag or a variable, which commas separate. An empty one
// is kept for check to find, since an error of this place would show the variable.
func (k *apiKeys) Decode(ctx *kong.DecodeContext) error {
	var text string
	if err := ctx.Scan.PopValueInto("key", &text); err != nil {
		return err
	}
	for key := range strings.SplitSeq(text, ",") {
		*k = append(*k, strings.TrimSpace(key))
	}
	return nil
}

// check refuses keys that are empty. A secret that was not mounted, or a variable
// of a template that has no value, must not open the API to everybody.
func (k apiKeys) check() error {
	for _, key := range k {
		if key == "" {
			return errors.New("--api-key, TANDEM_API_KEY: a key is empty: give one, or leave the flag and the variable out to serve without keys")
		}
	}
	return nil
}
