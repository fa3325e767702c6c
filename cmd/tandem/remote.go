package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// serverFlags name a server that has the model.
type serverFlags struct {
	URL    string `help:"Talk to a server of OpenAI's API, such as Tandem's at http://127.0.0.1:8080, in place of a model in this process. --model is then a name of the server's, by default the first that it lists." placeholder:"URL" name:"url"`
	APIKey string `help:"The key that the server of --url asks for." placeholder:"KEY" name:"api-key" env:"TANDEM_API_KEY"`
}

// withoutURL begins the group of the flags that say how a model runs in this
// process.
const withoutURL = "Model in this process (without --url):"

// check refuses flags that would change nothing.
func (f *serverFlags) check(command *kong.Context) error {
	if f.URL == "" {
		if given(command, "api-key") {
			return errors.New("--api-key: it is for the server of --url")
		}
		return nil
	}
	for _, p := range command.Path {
		if p.Flag != nil && p.Flag.Group != nil && p.Flag.Group.Key == withoutURL {
			return fmt.Errorf("--%s: with --url, the model runs elsewhere", p.Flag.Name)
		}
	}
	_, err := f.base()
	return err
}

// name is the model's name at the server, as far as the command line tells it: the
// environment's model is a folder.
func (f *serverFlags) name(command *kong.Context, model string) string {
	if f.URL != "" && !given(command, "model") {
		return ""
	}
	return model
}

// base is the URL below which the API's paths are.
func (f *serverFlags) base() (string, error) {
	text := f.URL
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" ||
		u.Fragment != "" || u.User != nil {
		return "", fmt.Errorf("--url %q: want http://HOST:PORT or https://HOST:PORT", f.URL)
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v1") + "/v1/"
	return u.String(), nil
}

// Bounds of waiting for a server.
const (
	dialTimeout = 10 * time.Second
	listTimeout = 10 * time.Second
	// answerTimeout is for the beginning of an answer: a long prompt may wait its turn.
	answerTimeout = 10 * time.Minute
)

// server is a model that a server has. OpenAI's own client for Go would be half of
// this program's size.
type server struct {
	base     string
	key      string
	client   *http.Client
	model    string
	sampling *samplingFlags
}

// connect finds a server's model: the one that is named, or the first.
func (f *serverFlags) connect(ctx context.Context, model string, sampling *samplingFlags) (*server, error) {
	base, err := f.base()
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	transport.ResponseHeaderTimeout = answerTimeout
	s := &server{base, strings.TrimSpace(f.APIKey), &http.Client{Transport: transport}, model, sampling}
	if s.model == "" {
		if s.model, err = s.firstModel(ctx); err != nil {
			return nil, fmt.Errorf("--url %s: %w", f.URL, err)
		}
	}
	return s, nil
}

// firstModel asks a server for its models.
func (s *server) firstModel(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	body, err := s.ask(ctx, http.MethodGet, "models", nil)
	if err != nil {
		return "", err
	}
	defer body.Close()
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(body, maxEvent)).Decode(&list); err != nil {
		return "", fmt.Errorf("the server's list of models: %w", err)
	}
	if len(list.Data) == 0 {
		return "", errors.New("the server lists no model: name one by --model")
	}
	return list.Data[0].ID, nil
}

// ask sends a request, and returns the body of an answer that is none of an error.
func (s *server) ask(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, s.base+path, strings.NewReader(string(text)))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if s.key != "" {
		r.Header.Set("Authorization", "Bearer "+s.key)
	}
	answer, err := s.client.Do(r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(answer.Body, maxError)) // what there is of it
		return nil, fmt.Errorf("the server answers %s: %s", answer.Status, reason(text))
	}
	return answer.Body, nil
}

// Bounds of what a server may send at once, in bytes.
const (
	maxEvent = 16 << 20
	maxError = 4 << 10
)

// failure is an error as the API puts it.
type failure struct {
	Error *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// reason is an error's message, or the beginning of what came in its place.
func reason(text []byte) string {
	var f failure
	if json.Unmarshal(text, &f) == nil && f.Error != nil {
		return f.Error.Message
	}
	return strconv.Quote(string(text[:min(len(text), 200)]))
}

// request are the parameters of a request for a stream, and what it is about.
func (s *server) request(name string, value any) map[string]any {
	f := s.sampling
	r := map[string]any{"model": s.model, "stream": true, "max_tokens": f.MaxTokens, name: value}
	for name, value := range map[string]*float64{"temperature": f.Temperature, "top_p": f.TopP} {
		if value != nil {
			r[name] = *value
		}
	}
	if f.TopK != nil {
		r["top_k"] = *f.TopK
	}
	if f.Seed != nil {
		r["seed"] = *f.Seed
	}
	if len(f.Stop) > 0 {
		r["stop"] = f.Stop
	}
	return r
}

// answer implements partner.
func (s *server) answer(ctx context.Context, messages []message, w io.Writer) (string, error) {
	return s.stream(ctx, "chat/completions", s.request("messages", messages), w)
}

// generate continues a prompt.
func (s *server) generate(ctx context.Context, prompt string, w io.Writer) (string, error) {
	return s.stream(ctx, "completions", s.request("prompt", prompt), w)
}

// stream writes an answer as it comes, ends its line, and returns it.
func (s *server) stream(ctx context.Context, path string, request any, w io.Writer) (string, error) {
	body, err := s.ask(ctx, http.MethodPost, path, request)
	if err != nil {
		return "", err
	}
	defer body.Close()
	var all strings.Builder
	err = events(body, func(text string) error {
		all.WriteString(text)
		_, err := io.WriteString(w, text)
		return err
	})
	if err == nil || all.Len() > 0 {
		fmt.Fprintln(w)
	}
	return all.String(), err
}

// event is a piece of an answer: of a conversation, or of a continued prompt.
type event struct {
	failure
	Choices []struct {
		Delta struct {
			Content string `json:"content"`
		} `json:"delta"`
		Text string `json:"text"`
	} `json:"choices"`
}

// events reads server-sent events until "[DONE]", and hands out the text of each.
func events(r io.Reader, text func(string) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		data, is := strings.CutPrefix(lines.Text(), "data:")
		if !is {
			continue // a comment, or a blank between events
		}
		if data = strings.TrimSpace(data); data == "[DONE]" {
			return nil
		}
		var e event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("an event of the server's: %w", err)
		}
		if e.Error != nil {
			return fmt.Errorf("the server says: %s", e.Error.Message)
		}
		for _, c := range e.Choices {
			if err := text(c.Delta.Content + c.Text); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the server's answer: %w", err)
	}
	return fmt.Errorf("the server's answer: %w", io.ErrUnexpectedEOF)
}
