package api

import (
	"net/http"
	"strings"
)

// TokenizeRequest is the body of /tokenize: a prompt, or a conversation.
type TokenizeRequest struct {
	Model            string  `json:"model,omitempty"`
	Prompt           *string `json:"prompt,omitempty"`
	Conversation     `json:",omitempty"`
	AddSpecialTokens *bool `json:"add_special_tokens,omitempty"`
	ReturnTokenStrs  bool  `json:"return_token_strs,omitempty"`
}

// ParseTokenize reads the body of /tokenize. Errors are *Error.
func ParseTokenize(body []byte) (*TokenizeRequest, error) {
	var r TokenizeRequest
	err := parse(body, r.Conversation.fields().with(fields{
		"model":              text(&r.Model),
		"prompt":             optional(text, &r.Prompt),
		"add_special_tokens": optional(boolean, &r.AddSpecialTokens),
		"return_token_strs":  boolean(&r.ReturnTokenStrs),
	}))
	if err != nil {
		return nil, err
	}
	if (r.Prompt == nil) == (r.Messages == nil) {
		return nil, invalid("prompt", "give either prompt or messages")
	}
	if r.Messages != nil {
		return &r, r.Conversation.check()
	}
	return &r, nil
}

// tokenize answers /tokenize.
func (s *Server) tokenize(w http.ResponseWriter, r *http.Request) error {
	body, release, err := s.body(w, r)
	if err != nil {
		return err
	}
	defer release()
	request, err := ParseTokenize(body)
	if err != nil {
		return err
	}
	if err := s.checkModel(request.Model); err != nil {
		return err
	}
	ids, err := s.tokens(request)
	if err != nil {
		return err
	}
	answer := struct {
		Count       int      `json:"count"`
		MaxModelLen int      `json:"max_model_len"`
		Tokens      []int32  `json:"tokens"`
		TokenStrs   []string `json:"token_strs"`
	}{Count: len(ids), MaxModelLen: s.cfg.Service.Context(), Tokens: ids}
	if request.ReturnTokenStrs {
		answer.TokenStrs = s.pieces(ids)
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

func (s *Server) tokens(r *TokenizeRequest) ([]int32, error) {
	if r.Prompt != nil {
		ids := s.cfg.Service.Tokenizer().Encode(*r.Prompt, first(true, r.AddSpecialTokens))
		return append([]int32{}, ids...), nil
	}
	return s.chatIDs(&r.Conversation, r.AddSpecialTokens)
}

// pieces are the tokens' own strings: the vocabulary's, where the tokenizer
// tells.
func (s *Server) pieces(ids []int32) []string {
	vocabulary, ok := s.cfg.Service.Tokenizer().(interface{ Piece(int32) string })
	out := make([]string, len(ids))
	for i, id := range ids {
		if ok {
			out[i] = vocabulary.Piece(id)
		} else {
			out[i] = strings.ToValidUTF8(string(s.cfg.Service.Tokenizer().TokenBytes(id)), "\ufffd")
		}
	}
	return out
}

// detokenize answers /detokenize.
func (s *Server) detokenize(w http.ResponseWriter, r *http.Request) error {
	body, release, err := s.body(w, r)
	if err != nil {
		return err
	}
	defer release()
	var model string
	var ids []int32
	if err := parse(body, fields{"model": text(&model), "tokens": tokenIDs(&ids)}); err != nil {
		return err
	}
	if err := s.checkModel(model); err != nil {
		return err
	}
	if ids == nil {
		return invalid("tokens", "tokens is missing")
	}
	for i, id := range ids {
		if vocabulary := s.cfg.Service.Limits().Vocabulary; id < 0 || int(id) >= vocabulary {
			return invalid("tokens", "tokens[%d] is %d, outside the vocabulary of %d", i, id, vocabulary)
		}
	}
	writeJSON(w, http.StatusOK, map[string]string{"prompt": s.cfg.Service.Tokenizer().Decode(ids, false)})
	return nil
}
