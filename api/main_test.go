package api_test

import (
	"context"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tandem-moe/tandem/api"
	"github.com/tandem-moe/tandem/serve/completion"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// onePart is content of one part; a transcript has its text.
var onePart = regexp.MustCompile(`\[\{"type":"text","text":("(?:[^"\\]|\\.)*")\}\]`)

// transcript is a template: the messages' JSON as it is, then tools and the rest.
type transcript struct{}

func (transcript) Render(_ context.Context, in api.TemplateInput) (string, error) {
	text := onePart.ReplaceAllString(string(in.Messages), "$1")
	if in.Tools != nil {
		text += " tools " + string(in.Tools)
	}
	if in.Kwargs != nil {
		text += " kwargs " + string(in.Kwargs)
	}
	if in.AddGenerationPrompt {
		text += " answer:"
	}
	return text, nil
}

// config is a server's over a fake engine, with ids and times that do not vary.
func config(e *enginetest.Engine) api.Config {
	var ids atomic.Int64
	return api.Config{
		Models:   []string{"fake", "also-fake"},
		Created:  time.Unix(1700000000, 0),
		Version:  "v0-test",
		Template: transcript{},
		Service: completion.New(completion.Config{
			Engine: e, Tokenizer: enginetest.Tokenizer{}, EOS: []int32{enginetest.EOS},
		}),
		Now:   func() time.Time { return time.Unix(1700000001, 0) },
		NewID: func() string { return strconv.FormatInt(ids.Add(1), 10) },
		Log:   slog.New(slog.DiscardHandler),
	}
}

// start serves on a socket of the machine until the test ends, and returns the
// server's address.
func start(t *testing.T, cfg api.Config) string {
	t.Helper()
	address, stop := startUntil(t, cfg)
	t.Cleanup(stop)
	return address
}

// listen takes a free port of the machine.
func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return listener
}

// startUntil serves until stop is called; stop waits for the end.
func startUntil(t *testing.T, cfg api.Config) (address string, stop func()) {
	t.Helper()
	listener := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- api.NewServer(cfg).Serve(ctx, listener) }()
	return listener.Addr().String(), func() {
		cancel()
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(10 * time.Second):
			t.Error("the server does not end")
		}
	}
}
