package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/tandem-moe/tandem/internal/bounded"
	"github.com/tandem-moe/tandem/model/gopher"
	"github.com/tandem-moe/tandem/model/tokenizer"
)

// TokenizeCmd turns standard input into ids, or ids into text, on standard
// output. It needs nothing of a model but its tokenizer.json.
type TokenizeCmd struct {
	modelFlags
	JSON    bool `help:"One JSON string a line in, one JSON array of ids a line out; with --decode the other way." name:"json"`
	Special bool `help:"Add what the tokenizer's post-processor adds: a begin-of-sequence token, say." xor:"special"`
	Decode  bool `help:"Turn ids into text. Special tokens are written out." xor:"special"`
}

// Bounds of standard input.
const (
	maxTokenizeText = 1 << 30  // bytes of one text
	maxTokenizeLine = 64 << 20 // bytes of a line of JSON
)

// Run turns text into ids, or ids into text.
func (c *TokenizeCmd) Run() error {
	t, err := loadTokenizer(c.Model)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	if err := c.convert(t, os.Stdin, out); err != nil {
		return errors.Join(err, out.Flush())
	}
	return out.Flush()
}

// loadTokenizer reads the tokenizer in a model's folder, or the embedded model's.
func loadTokenizer(dir string) (*tokenizer.Tokenizer, error) {
	if dir == "" {
		return tokenizer.LoadFS(gopher.Files())
	}
	return tokenizer.Load(dir)
}

func (c *TokenizeCmd) convert(t *tokenizer.Tokenizer, in io.Reader, out io.Writer) error {
	if c.JSON {
		return c.lines(t, in, out)
	}
	data, err := bounded.Read(in, maxTokenizeText)
	if err != nil {
		return fmt.Errorf("reading standard input: %w", err)
	}
	if c.Decode {
		return decodeText(t, string(data), out)
	}
	ids, err := t.Encode(context.Background(), string(data), c.Special) // a signal ends the process
	if err != nil {
		return err
	}
	return writeIDs(out, ids)
}

// writeIDs writes one line of ids with spaces between.
func writeIDs(out io.Writer, ids []int32) error {
	line := make([]byte, 0, 6*len(ids)+1)
	for i, id := range ids {
		if i > 0 {
			line = append(line, ' ')
		}
		line = strconv.AppendInt(line, int64(id), 10)
	}
	_, err := out.Write(append(line, '\n'))
	return err
}

// decodeText writes the text of the ids in data, which spaces and newlines
// separate, byte for byte.
func decodeText(t *tokenizer.Tokenizer, data string, out io.Writer) error {
	var ids []int32
	for i, line := range strings.Split(data, "\n") {
		for _, field := range strings.Fields(line) {
			id, err := strconv.ParseInt(field, 10, 32)
			if err == nil {
				err = checkID(t, int32(id))
			}
			if err != nil {
				return fmt.Errorf("standard input, line %d: %q is no id: %w", i+1, field, err)
			}
			ids = append(ids, int32(id))
		}
	}
	_, err := io.WriteString(out, t.Decode(ids, false))
	return err
}

func checkID(t *tokenizer.Tokenizer, id int32) error {
	if !t.Has(id) {
		return fmt.Errorf("the tokenizer has no token %d; its ids are 0 to %d", id, t.VocabSize()-1)
	}
	return nil
}

// lines converts line by line.
func (c *TokenizeCmd) lines(t *tokenizer.Tokenizer, in io.Reader, out io.Writer) error {
	s := bufio.NewScanner(in)
	s.Buffer(nil, maxTokenizeLine)
	n := 0
	for s.Scan() {
		n++
		if err := c.line(t, s.Bytes(), out); err != nil {
			return fmt.Errorf("standard input, line %d: %w", n, err)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("standard input, line %d: %w", n+1, err)
	}
	return nil
}

func (c *TokenizeCmd) line(t *tokenizer.Tokenizer, line []byte, out io.Writer) error {
	if c.Decode {
		ids, err := jsonIDs(t, line)
		if err != nil {
			return err
		}
		e := json.NewEncoder(out)
		e.SetEscapeHTML(false)
		return e.Encode(t.Decode(ids, false))
	}
	var text *string
	if err := json.Unmarshal(line, &text); err != nil || text == nil {
		return notJSON("a JSON string", err)
	}
	ids, err := t.Encode(context.Background(), *text, c.Special)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(append([]int32{}, ids...))
}

// jsonIDs reads a JSON array of ids.
func jsonIDs(t *tokenizer.Tokenizer, line []byte) ([]int32, error) {
	var list []*int32
	if err := json.Unmarshal(line, &list); err != nil || list == nil {
		return nil, notJSON("a JSON array of ids", err)
	}
	ids := make([]int32, len(list))
	for i, id := range list {
		if id == nil {
			return nil, fmt.Errorf("id %d is null", i)
		}
		if err := checkID(t, *id); err != nil {
			return nil, fmt.Errorf("id %d: %w", i, err)
		}
		ids[i] = *id
	}
	return ids, nil
}

func notJSON(want string, err error) error {
	if err == nil {
		return fmt.Errorf("want %s, got null", want)
	}
	return fmt.Errorf("want %s: %w", want, err)
}
