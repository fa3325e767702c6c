package api

import (
	"fmt"
	"net/http"
	"slices"
)

// modelCard describes the model, with vLLM's max_model_len.
type modelCard struct {
	ID          string `json:"id"`
	Object      string `json:"object"`
	Created     int64  `json:"created"`
	OwnedBy     string `json:"owned_by"`
	MaxModelLen int    `json:"max_model_len"`
}

func (s *Server) card(name string) modelCard {
	return modelCard{
		ID: name, Object: "model", Created: s.cfg.Created.Unix(), OwnedBy: "tandem",
		MaxModelLen: s.cfg.Service.Context(),
	}
}

// models answers /v1/models.
func (s *Server) models(w http.ResponseWriter, _ *http.Request) error {
	cards := make([]modelCard, len(s.cfg.Models))
	for i, name := range s.cfg.Models {
		cards[i] = s.card(name)
	}
	writeJSON(w, http.StatusOK, struct {
		Object string      `json:"object"`
		Data   []modelCard `json:"data"`
	}{"list", cards})
	return nil
}

// modelByName answers /v1/models/{id}.
func (s *Server) modelByName(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("id")
	if !slices.Contains(s.cfg.Models, name) {
		return noModel(name)
	}
	writeJSON(w, http.StatusOK, s.card(name))
	return nil
}

// health is 200 while requests are served. That they are not is no failure to
// log, however often somebody looks.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) error {
	err := s.cfg.Ready()
	switch {
	case s.gate.shutting():
		writeError(w, notReady("the server is shutting down"))
	case err != nil:
		writeError(w, notReady(err.Error()))
	default:
		answer := map[string]string{"status": "ok"}
		if failing := s.cfg.Failing(); failing != "" {
			answer["failing"] = failing
		}
		writeJSON(w, http.StatusOK, answer)
	}
	return nil
}

// root says what is here, to who follows the server's URL.
func (s *Server) root(w http.ResponseWriter, _ *http.Request) error {
	type link struct {
		Method string `json:"method"`
		Path   string `json:"path"`
		What   string `json:"what"`
	}
	links := []link{
		{"GET", "/v1/models", "the model"},
		{"POST", "/v1/chat/completions", "answers to conversations, as OpenAI's"},
		{"POST", "/v1/completions", "continuations of texts, as OpenAI's"},
		{"POST", "/tokenize", "a text's tokens"},
		{"POST", "/detokenize", "tokens' text"},
		{"GET", "/health", "200 while requests are served"},
		{"GET", "/version", "the version"},
	}
	if s.cfg.Metrics != nil {
		links = append(links, link{"GET", "/metrics", "metrics for Prometheus"})
	}
	writeJSON(w, http.StatusOK, struct {
		Name    string `json:"name"`
		Version string `json:"version"`
		BaseURL string `json:"openai_base_url"`
		Links   []link `json:"links"`
	}{"Tandem", s.cfg.Version, "/v1", links})
	return nil
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]string{"version": s.cfg.Version})
	return nil
}

func bytesText(n int64) string {
	if n%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}
