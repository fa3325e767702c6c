package api

import "slices"

// truncate cuts prompts to the tokens that the request wants of each, as vLLM
// does: the last ones, or with truncation_side "right" the first. What the
// tokenizer has put around a text, a beginning of sequence, say, stays.
func (s *Server) truncate(r *Sampling, prompts [][]int32, around specials, output int) error {
	if r.Truncate == nil {
		return nil
	}
	limit := s.cfg.Service.Context()
	if *r.Truncate > limit {
		return invalid("truncate_prompt_tokens",
			"truncate_prompt_tokens is %d, more than the model's maximum context length of %d tokens", *r.Truncate, limit)
	}
	keep := *r.Truncate
	if keep < 0 {
		keep = max(1, limit-output)
	}
	for i, ids := range prompts {
		prompts[i] = around.cut(ids, keep, r.TruncationSide == "right")
	}
	return nil
}

// specials is how many special tokens the tokenizer puts before and behind a text.
type specials struct{ before, behind int }

// specialsOf compares a text's tokens with those of no text.
func specialsOf(ids, empty []int32) specials {
	var s specials
	for s.before < min(len(ids), len(empty)) && ids[s.before] == empty[s.before] {
		s.before++
	}
	s.behind = len(empty) - s.before
	return s
}

// cut keeps so many tokens of a prompt.
func (s specials) cut(ids []int32, keep int, beginning bool) []int32 {
	if len(ids) <= keep {
		return ids
	}
	if s.before+s.behind >= keep {
		s = specials{} // they would leave nothing of the text
	}
	text := ids[s.before : len(ids)-s.behind]
	keep -= s.before + s.behind
	if beginning {
		text = text[:keep]
	} else {
		text = text[len(text)-keep:]
	}
	return slices.Concat(ids[:s.before], text, ids[len(ids)-s.behind:])
}
