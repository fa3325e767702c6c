package tokenizer

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// maxComponents bounds a Sequence, with those in it, and so a file's patterns.
const maxComponents = 32

// components lists the parts of a Sequence, and of those in it; or the component
// itself. field is the list's name in a Sequence.
func components(raw json.RawMessage, field string) ([]json.RawMessage, error) {
	if isNull(raw) {
		return nil, nil
	}
	var out []json.RawMessage
	pending := []json.RawMessage{raw}
	for len(pending) > 0 {
		c := pending[0]
		pending = pending[1:]
		kind, err := kindOf(c)
		if err != nil {
			return nil, err
		}
		if kind != "Sequence" {
			out = append(out, c)
			continue
		}
		parts, err := sequenceParts(c, field)
		if err != nil {
			return nil, fmt.Errorf("Sequence: %w", err)
		}
		if len(out)+len(pending)+len(parts) > maxComponents {
			return nil, fmt.Errorf("Sequence: more than %d components", maxComponents)
		}
		pending = append(slices.Clone(parts), pending...)
	}
	return out, nil
}

func sequenceParts(raw json.RawMessage, field string) ([]json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	for name := range fields {
		if name != "type" && name != field {
			return nil, fmt.Errorf("field %q is not known", name)
		}
	}
	var parts []json.RawMessage
	err := json.Unmarshal(fields[field], &parts)
	return parts, err
}

// build makes each component of a field by the maker of its type.
func build[T any](raw json.RawMessage, field string, makers map[string]func(json.RawMessage) (T, error)) ([]T, error) {
	parts, err := components(raw, field)
	if err != nil {
		return nil, err
	}
	var out []T
	for _, c := range parts {
		kind, err := kindOf(c)
		if err != nil {
			return nil, err
		}
		maker, ok := makers[kind]
		if !ok {
			return nil, fmt.Errorf("type %q is not supported; known: %s", kind, known(makers))
		}
		v, err := maker(c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		out = append(out, v)
	}
	return out, nil
}

func known[T any](makers map[string]T) string {
	return strings.Join(append(slices.Sorted(maps.Keys(makers)), "Sequence"), ", ")
}

// typed is the field that every component has.
type typed struct {
	Type string `json:"type"`
}

// patternFile is a pattern: one of two.
type patternFile struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

func (p patternFile) finder() (finder, error) {
	switch {
	case (p.String == nil) == (p.Regex == nil):
		return nil, fmt.Errorf("pattern: want one of String and Regex")
	case p.Regex != nil:
		return compilePattern(*p.Regex)
	case *p.String == "":
		return nil, fmt.Errorf("pattern: String is empty")
	}
	return literal(*p.String), nil
}

// replaceFile is a Replace, among the normalizers and the decoders.
type replaceFile struct {
	typed
	Pattern patternFile `json:"pattern"`
	Content string      `json:"content"`
}

func (r *replaceFile) read(raw json.RawMessage) (finder, error) {
	if err := strict(raw, r); err != nil {
		return nil, err
	}
	if len(r.Content) > maxContent {
		return nil, fmt.Errorf("content has %d bytes; at most %d are taken", len(r.Content), maxContent)
	}
	return r.Pattern.finder()
}

// plain makes a component that has no fields.
func plain[T any](v func() T) func(json.RawMessage) (T, error) {
	return func(raw json.RawMessage) (T, error) {
		if err := strict(raw, &typed{}); err != nil {
			var zero T
			return zero, err
		}
		return v(), nil
	}
}

func normalForm(f norm.Form) func(json.RawMessage) (normalizer, error) {
	return plain(func() normalizer { return form(f) })
}

// normalizers are the makers of tokenizer.json's normalizer.
var normalizers = map[string]func(json.RawMessage) (normalizer, error){
	"NFC":          normalForm(norm.NFC),
	"NFD":          normalForm(norm.NFD),
	"NFKC":         normalForm(norm.NFKC),
	"NFKD":         normalForm(norm.NFKD),
	"Lowercase":    plain(func() normalizer { return lowercase }),
	"StripAccents": plain(stripAccents),
	"ByteLevel":    plain(func() normalizer { return byteLevel }),
	"Prepend": func(raw json.RawMessage) (normalizer, error) {
		var c struct {
			typed
			Prepend string `json:"prepend"`
		}
		err := strict(raw, &c)
		if err == nil && len(c.Prepend) > maxContent {
			err = fmt.Errorf("prepend has %d bytes; at most %d are taken", len(c.Prepend), maxContent)
		}
		return prependNormalizer(c.Prepend), err
	},
	"Replace": func(raw json.RawMessage) (normalizer, error) {
		var c replaceFile
		f, err := c.read(raw)
		return replaceNormalizer(f, c.Content), err
	},
	"Strip": func(raw json.RawMessage) (normalizer, error) {
		var c struct {
			typed
			Left  bool `json:"strip_left"`
			Right bool `json:"strip_right"`
		}
		err := strict(raw, &c)
		return stripNormalizer(c.Left, c.Right), err
	},
}

// byteLevelFile is a ByteLevel among pre-tokenizers, post-processors and
// decoders. TrimOffsets changes offsets alone, which are not kept here.
type byteLevelFile struct {
	typed
	AddPrefixSpace bool  `json:"add_prefix_space"`
	TrimOffsets    bool  `json:"trim_offsets"`
	UseRegex       *bool `json:"use_regex"` // missing: true
}

// cutter is a pre-tokenizer; byteLevel says that its pieces are then written in
// byte-level characters.
type cutter struct {
	preTokenizer
	byteLevel bool
}

// preTokenizers are the makers of tokenizer.json's pre_tokenizer.
var preTokenizers = map[string]func(json.RawMessage) (cutter, error){
	"ByteLevel":  makeByteLevel,
	"Split":      makeSplit,
	"Metaspace":  makeMetaspace,
	"Whitespace": plain(func() cutter { return cutBy(splitAt(wordPattern()), "Removed", true) }),
	"WhitespaceSplit": plain(func() cutter {
		return cutBy(charSplitter(newRuneSet(spaces()).has), "Removed", false)
	}),
	"Digits":      makeDigits,
	"Punctuation": makePunctuation,
	"FixedLength": makeFixedLength,
	"CharDelimiterSplit": func(raw json.RawMessage) (cutter, error) {
		var c struct {
			typed
			Delimiter string `json:"delimiter"`
		}
		if err := strict(raw, &c); err != nil {
			return cutter{}, err
		}
		if utf8.RuneCountInString(c.Delimiter) != 1 {
			return cutter{}, fmt.Errorf("delimiter is %q, want one character", c.Delimiter)
		}
		return cutBy(splitAt(literal(c.Delimiter)), "Removed", false), nil
	},
}

func cutBy(find splitter, b behavior, invert bool) cutter {
	return cutter{preTokenizer: splitPreTokenizer(find, b, invert)}
}

func makeByteLevel(raw json.RawMessage) (cutter, error) {
	var c byteLevelFile
	if err := strict(raw, &c); err != nil {
		return cutter{}, err
	}
	var parts []preTokenizer
	if c.AddPrefixSpace {
		parts = append(parts, spacePrefix)
	}
	if c.UseRegex == nil || *c.UseRegex {
		parts = append(parts, splitPreTokenizer(splitAt(mustPattern(byteLevelSplit)), "Isolated", false))
	}
	return cutter{sequencePreTokenizer(parts), true}, nil
}

func makeSplit(raw json.RawMessage) (cutter, error) {
	var c struct {
		typed
		Pattern  patternFile `json:"pattern"`
		Behavior behavior    `json:"behavior"`
		Invert   bool        `json:"invert"`
	}
	if err := strict(raw, &c); err != nil {
		return cutter{}, err
	}
	f, err := c.Pattern.finder()
	if err == nil {
		err = c.Behavior.check()
	}
	if err != nil {
		return cutter{}, err
	}
	return cutBy(splitAt(f), c.Behavior, c.Invert), nil
}

func (b behavior) check() error {
	if _, ok := behaviors[b]; !ok {
		return fmt.Errorf("behavior %q is not known", b)
	}
	return nil
}

func makeDigits(raw json.RawMessage) (cutter, error) {
	var c struct {
		typed
		Individual bool `json:"individual_digits"`
	}
	b := behavior("Contiguous")
	err := strict(raw, &c)
	if c.Individual {
		b = "Isolated"
	}
	return cutBy(charSplitter(digits()), b, false), err
}

func makePunctuation(raw json.RawMessage) (cutter, error) {
	var c struct {
		typed
		Behavior behavior `json:"behavior"`
	}
	c.Behavior = "Isolated"
	err := strict(raw, &c)
	if err == nil {
		err = c.Behavior.check()
	}
	if err != nil {
		return cutter{}, err
	}
	return cutBy(charSplitter(punctuation()), c.Behavior, false), nil
}

func makeFixedLength(raw json.RawMessage) (cutter, error) {
	var c struct {
		typed
		Length int `json:"length"`
	}
	err := strict(raw, &c)
	if err == nil && c.Length < 1 {
		err = fmt.Errorf("length is %d, want 1 or more", c.Length)
	}
	return cutter{preTokenizer: fixedLength(c.Length)}, err
}

// metaspaceFile is a Metaspace among pre-tokenizers and decoders.
type metaspaceFile struct {
	typed
	Replacement    string  `json:"replacement"`
	AddPrefixSpace *bool   `json:"add_prefix_space"` // older than prepend_scheme
	Scheme         *string `json:"prepend_scheme"`   // missing: always
	Split          *bool   `json:"split"`            // missing: true
	Repeated       *string `json:"str_rep"`          // the replacement once more
}

func (c *metaspaceFile) read(raw json.RawMessage) (metaspace, error) {
	if err := strict(raw, c); err != nil {
		return metaspace{}, err
	}
	if utf8.RuneCountInString(c.Replacement) != 1 {
		return metaspace{}, fmt.Errorf("replacement is %q, want one character", c.Replacement)
	}
	m := metaspace{mark: c.Replacement, scheme: "always", split: c.Split == nil || *c.Split}
	if c.Scheme != nil {
		m.scheme = *c.Scheme
	}
	if !slices.Contains([]string{"always", "first", "never"}, m.scheme) {
		return metaspace{}, fmt.Errorf("prepend_scheme %q is not known", m.scheme)
	}
	if c.AddPrefixSpace != nil && !*c.AddPrefixSpace {
		if c.Scheme != nil && m.scheme != "never" {
			return metaspace{}, fmt.Errorf("add_prefix_space is false and prepend_scheme %q", m.scheme)
		}
		m.scheme = "never"
	}
	return m, nil
}

func makeMetaspace(raw json.RawMessage) (cutter, error) {
	var c metaspaceFile
	m, err := c.read(raw)
	if err != nil {
		return cutter{}, err
	}
	return cutter{preTokenizer: m.preTokenizer()}, nil
}

// decoders are the makers of tokenizer.json's decoder.
var decoders = map[string]func(json.RawMessage) (decoder, error){
	"ByteLevel": func(raw json.RawMessage) (decoder, error) {
		return byteLevelDecoder(), strict(raw, &byteLevelFile{})
	},
	"ByteFallback": plain(byteFallbackDecoder),
	"Fuse":         plain(fuseDecoder),
	"Replace": func(raw json.RawMessage) (decoder, error) {
		var c replaceFile
		f, err := c.read(raw)
		return replaceDecoder(f, c.Content), err
	},
	"Strip": func(raw json.RawMessage) (decoder, error) {
		var c struct {
			typed
			Content string `json:"content"`
			Start   int    `json:"start"`
			Stop    int    `json:"stop"`
		}
		err := strict(raw, &c)
		content, size := utf8.DecodeRuneInString(c.Content)
		if err == nil && (size == 0 || size != len(c.Content) || c.Start < 0 || c.Stop < 0) {
			err = fmt.Errorf("content %q, start %d, stop %d: want one character and no negative numbers", c.Content, c.Start, c.Stop)
		}
		return stripDecoder(content, c.Start, c.Stop), err
	},
	"Metaspace": func(raw json.RawMessage) (decoder, error) {
		var c metaspaceFile
		m, err := c.read(raw)
		return m.decoder(), err
	},
}

// wordPattern finds words, and runs of what is neither word nor space. It is
// Rust's \w+|[^\w\s]+.
func wordPattern() *pattern {
	some := func(s spans) expr { return repeat{sub: oneOf{s}, min: 1, max: -1} }
	p, err := link("words", choice{[]expr{some(words()), some(union(words(), spaces()).complement())}})
	if err != nil {
		panic(err)
	}
	return p
}

// mustPattern compiles one of this package's own patterns.
func mustPattern(text string) *pattern {
	p, err := compilePattern(text)
	if err != nil {
		panic(err)
	}
	return p
}
