package api

import (
	"context"
	"net/http"
)

// TokenizeRequest is the body of /tokenize: a prompt, or a conversation.
type TokenizeRequest struct {
	Model            string  `json:"model,omitempty"`
	Prompt           *string `json:"prompt,omitempty"`
	Conversation     `json:",omitempty"`
	AddSpecialTokens *bool `json:"add_special_tokens,omitempty"`
	ReturnTokenStrs  bool  `json:"return_token_strs,omitempty"`
}

// Tokenize reads the body of /tokenize. Errors are *Error.
func (p *Parser) Tokenize(body []byte) (*TokenizeRequest, error) {
	var r TokenizeRequest
	err := p.parse(body, r.Conversation.fields(p).with(fields{
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
		return &r, r.check()
	}
	return &r, nil
}

// tokenize answers /tokenize.
func (s *Server) tokenize(w http.ResponseWriter, r *http.Request) error {
	found, err := prepared(s, w, r, (*Parser).Tokenize, s.tokens)
	if err != nil {
		return err
	}
	ids := found.ids
	answer := struct {
		Count       int      `json:"count"`
		MaxModelLen int      `json:"max_model_len"`
		Tokens      []int32  `json:"tokens"`
		TokenStrs   []string `json:"token_strs"`
	}{Count: len(ids), MaxModelLen: s.cfg.Service.Context(), Tokens: ids}
	if found.strings {
		for _, id := range ids {
			answer.TokenStrs = append(answer.TokenStrs, s.cfg.Service.Tokenizer().Piece(id))
		}
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// tokenized is a text's tokens, and whether they are asked for as strings, too.
type tokenized struct {
	ids     []int32
	strings bool
}

// tokens are those of the prompt or conversation, however many.
func (s *Server) tokens(ctx context.Context, r *TokenizeRequest) (tokenized, error) {
	if err := s.checkModel(r.Model); err != nil {
		return tokenized{}, err
	}
	text, err := s.tokenizeText(ctx, r)
	if err != nil {
		return tokenized{}, err
	}
	ids, err := s.encode(ctx, text, first(r.Prompt != nil, r.AddSpecialTokens))
	return tokenized{append([]int32{}, ids...), r.ReturnTokenStrs}, err
}

// tokenizeText is the prompt, or the conversation as the model reads it.
func (s *Server) tokenizeText(ctx context.Context, r *TokenizeRequest) (string, error) {
	if r.Prompt != nil {
		return *r.Prompt, nil
	}
	return s.render(ctx, &r.Conversation)
}

// DetokenizeRequest is the body of /detokenize.
type DetokenizeRequest struct {
	Model  string  `json:"model,omitempty"`
	Tokens []int32 `json:"tokens"`
}

// Detokenize reads the body of /detokenize. Errors are *Error.
func (p *Parser) Detokenize(body []byte) (*DetokenizeRequest, error) {
	var r DetokenizeRequest
	if err := p.parse(body, fields{"model": text(&r.Model), "tokens": tokenIDs(&r.Tokens)}); err != nil {
		return nil, err
	}
	if r.Tokens == nil {
		return nil, invalid("tokens", "tokens is missing")
	}
	return &r, nil
}

// detokenize answers /detokenize.
func (s *Server) detokenize(w http.ResponseWriter, r *http.Request) error {
	text, err := prepared(s, w, r, (*Parser).Detokenize, s.decode)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"prompt": text})
	return nil
}

func (s *Server) decode(_ context.Context, r *DetokenizeRequest) (string, error) {
	if err := s.checkModel(r.Model); err != nil {
		return "", err
	}
	if err := s.checkIDs("tokens", r.Tokens); err != nil {
		return "", err
	}
	return s.cfg.Service.Tokenizer().Decode(r.Tokens, false), nil
}

// checkIDs refuses ids that are no tokens.
func (s *Server) checkIDs(name string, ids []int32) error {
	vocabulary := s.cfg.Service.Limits().Vocabulary
	for i, id := range ids {
		if id < 0 || int(id) >= vocabulary {
			return invalid(name, "%s[%d] is %d, outside the vocabulary of %d", name, i, id, vocabulary)
		}
	}
	return nil
}
