package tokenizer

import (
	"encoding/json"
	"fmt"
	"math"
	"unicode/utf8"
)

// Here is why a text of so many bytes has at least so many tokens, so that one
// that is far too long for a model is refused before it is encoded.
//
// The model covers what it is given: each token stands for at most as many bytes
// as its own text has, where every character has a token. What it is given is the
// text, made longer or shorter by the normalizer and the pre-tokenizer:
//
//   - what is not UTF-8 becomes longer or stays (three bytes for three at most);
//   - a byte-level alphabet, Metaspace, Prepend and spaces before words add bytes;
//   - a normal form decomposes a character, which has 4 bytes at most, to one or
//     more bytes, and joins characters to one that has a third of their bytes or
//     more (Unicode's greatest expansion of NFD in UTF-8). It changes no ASCII;
//   - a character's lower case has a byte or more, and of ASCII as many;
//   - Replace makes of its pattern, where that is a string, its content;
//   - what removes text (Strip, StripAccents, a Split whose behavior is Removed,
//     an added token that takes the spaces beside it) leaves no bound, and so do
//     characters without a token, where they vanish or a run of them is one token.
//
// least is the outcome: how many bytes of text a token stands for at most, in
// ASCII and in any text; 0: there is no bound.
type least struct{ ascii, any float64 }

// Shrinkage, by which factor a step may make text shorter.
const (
	formShrinks  = 4 * 3
	lowerShrinks = 4
)

// LeastTokens returns a number of tokens that the text has or exceeds, without
// encoding it. It is 0 where nothing is known.
func (t *Tokenizer) LeastTokens(text string) int {
	per := t.least.any
	if isASCII(text) {
		per = t.least.ascii
	}
	if per == 0 {
		return 0
	}
	return int(math.Ceil(float64(len(text)) / per))
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// findLeast sets least.
func (t *Tokenizer) findLeast() error {
	longest := t.longestToken()
	ascii, err := t.shrinks(true)
	if err != nil {
		return err
	}
	other, err := t.shrinks(false)
	if err != nil {
		return err
	}
	t.least = least{ascii: ascii * longest, any: other * longest}
	return nil
}

// longestToken is how many bytes of the pre-tokenizer's output a token covers at
// most; 0: there is no bound.
func (t *Tokenizer) longestToken() float64 {
	longest := 1
	for _, k := range t.tokens {
		n := len(k.text)
		if t.byteLevel && k.content == "" {
			n = utf8.RuneCountInString(k.text)
		}
		longest = max(longest, n, len(k.content))
	}
	for i := range t.file.AddedTokens {
		if a := &t.file.AddedTokens[i]; a.LStrip || a.RStrip {
			return 0
		}
	}
	switch b := &t.model; {
	case t.byteLevel && b.knowsBytes(), b.bytes != nil && !contains(b.bytes, -1):
		return float64(longest)
	case b.unk >= 0 && !b.fuseUnk: // one for each character, whatever its length
		return float64(longest * utf8.UTFMax)
	}
	return 0
}

// knowsBytes reports whether each character of the byte-level alphabet is a token.
func (b *bpe) knowsBytes() bool {
	for _, c := range byteChars {
		if _, ok := b.ids[c]; !ok {
			return false
		}
	}
	return b.prefix == "" && b.suffix == ""
}

func contains(ids []int32, id int32) bool {
	for _, i := range ids {
		if i == id {
			return true
		}
	}
	return false
}

// shrinks is the factor by which normalizer and pre-tokenizer make a text
// shorter, at most; 0: there is no bound. ascii says that the text is ASCII.
func (t *Tokenizer) shrinks(ascii bool) (float64, error) {
	factor := 1.0
	parts, err := components(t.file.Normalizer, "normalizers")
	if err != nil {
		return 0, err
	}
	for _, raw := range parts {
		f, err := normalizerShrinks(raw, &ascii)
		if err != nil {
			return 0, err
		}
		factor *= f
	}
	parts, err = components(t.file.PreTokenizer, "pretokenizers")
	if err != nil {
		return 0, err
	}
	for _, raw := range parts {
		removes, err := removesText(raw)
		if err != nil {
			return 0, err
		}
		if removes {
			factor = 0
		}
	}
	return factor, nil
}

// normalizerShrinks is the factor of one normalizer. ascii says whether what it
// is given is ASCII, and then whether what it makes of that is.
func normalizerShrinks(raw json.RawMessage, ascii *bool) (float64, error) {
	kind, err := kindOf(raw)
	if err != nil {
		return 0, err
	}
	before := *ascii
	switch kind {
	case "NFC", "NFD", "NFKC", "NFKD":
		return unless(before, formShrinks), nil
	case "Lowercase":
		return unless(before, lowerShrinks), nil
	case "Prepend", "ByteLevel":
		*ascii = false
		return 1, nil
	case "Replace":
		var c replaceFile
		if err := json.Unmarshal(raw, &c); err != nil {
			return 0, fmt.Errorf("Replace: %w", err)
		}
		*ascii = before && isASCII(c.Content)
		if c.Pattern.String == nil || c.Content == "" {
			return 0, nil
		}
		return max(1, float64(len(*c.Pattern.String))/float64(len(c.Content))), nil
	}
	return 0, nil
}

// unless is 1 where the text does not change, else the factor.
func unless(same bool, factor float64) float64 {
	if same {
		return 1
	}
	return factor
}

// removesText reports whether a pre-tokenizer leaves text out.
func removesText(raw json.RawMessage) (bool, error) {
	var c struct {
		Type     string   `json:"type"`
		Behavior behavior `json:"behavior"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return false, err
	}
	switch c.Type {
	case "Whitespace", "WhitespaceSplit", "CharDelimiterSplit":
		return true, nil
	}
	return c.Behavior == "Removed", nil
}
