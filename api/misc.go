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
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	}
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
