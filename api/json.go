package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/tandem-moe/tandem/internal/strictjson"
)

// maxDepth and maxMembers bound a document, beside its length.
const (
	maxDepth   = 64
	maxMembers = 4096
)

// checkJSON says whether data is one JSON document that is read in one way. What
// the other functions that read values take has passed it.
func checkJSON(data []byte) error {
	err := strictjson.Check(data, strictjson.Limits{Depth: maxDepth, Members: maxMembers})
	var e *strictjson.Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Path == "" {
		return invalid("", "the body %s", e.Problem())
	}
	return invalid(e.Path, "%s %s", e.Path, e.Reason)
}

// member is a field of an object that is written.
type member struct {
	key string
	raw []byte
}

// integer reads a whole number. 3.0 and 3e0 are whole.
func integer(raw []byte) (int64, bool) {
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// number reads any number; not one that is too large for a float64.
func number(raw []byte) (float64, bool) {
	f, err := strconv.ParseFloat(string(raw), 64)
	return f, err == nil
}

// countElements is how many elements a list has; at least that where its
// elements are lists, objects or strings.
func countElements(list []byte) int {
	return bytes.Count(list, []byte{','}) + 1
}

// quote is a text as a JSON string.
func quote(s string) []byte { return encode(s) }

// encode is JSON without HTML's escapes.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("api: %T does not encode: %v", v, err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}
