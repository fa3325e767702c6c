package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/tandem-moe/tandem/model/chat"
	"github.com/tandem-moe/tandem/serve/completion"
	"github.com/tandem-moe/tandem/serve/deploy"
	"github.com/tandem-moe/tandem/serve/sample"
)

// samplingFlags say how tokens are chosen.
type samplingFlags struct {
	MaxTokens   int      `help:"Longest output, in tokens." default:"128"`
	Temperature *float64 `help:"0 is greedy; default: the model's own, else 1."`
	TopP        *float64 `help:"Share of the probability that is sampled from."`
	TopK        *int     `help:"Number of candidates that are sampled from; 0: all."`
	Seed        *uint64  `help:"Seed of the sampling; default: at random."`
	Stop        []string `help:"Text that ends the output." placeholder:"TEXT"`
}

// request is a completion of one prompt.
func (f *samplingFlags) request(t *text, prompt []int32) completion.Request {
	d := t.defaults
	s := sample.Params{Temperature: 1}
	if d.DoSample != nil && !*d.DoSample {
		s.Temperature = 0
	}
	for _, o := range []struct {
		into            *float64
		model, explicit *float64
	}{{&s.Temperature, d.Temperature, f.Temperature}, {&s.TopP, d.TopP, f.TopP}, {&s.MinP, d.MinP, nil}, {&s.RepetitionPenalty, d.RepetitionPenalty, nil}} {
		if o.model != nil {
			*o.into = *o.model
		}
		if o.explicit != nil {
			*o.into = *o.explicit
		}
	}
	for _, k := range []*int{d.TopK, f.TopK} {
		if k != nil {
			s.TopK = *k
		}
	}
	r := completion.Request{
		Prompts: [][]int32{prompt}, N: 1, MaxTokens: f.MaxTokens, Clip: true, Stop: f.Stop, SkipSpecial: true,
		Sampling: s, Logprobs: -1, PromptLogprobs: -1,
	}
	if f.Seed != nil {
		r.Seeded, r.Sampling.Seed = true, *f.Seed
	}
	return r
}

// terminal is a model that runs in this process for somebody at a terminal.
type terminal struct {
	*text
	local   *deploy.Local
	service *completion.Service
	close   func()
}

// openTerminal starts a model.
func openTerminal(ctx context.Context, s *screen, dir string, o deploy.Options) (*terminal, error) {
	m, err := deploy.OpenModel(dir)
	if err != nil {
		return nil, err
	}
	t := &terminal{}
	if t.text, err = openText(m); err != nil {
		return nil, errors.Join(err, m.Checkpoint.Close())
	}
	if o.Log != nil {
		t.tell(o.Log)
	}
	bar := s.progress("loading " + m.Name)
	o.Progress = bar.report
	t.local, err = deploy.StartLocal(ctx, m, o, nil)
	bar.done()
	if err != nil {
		return nil, errors.Join(err, m.Checkpoint.Close())
	}
	t.service = t.text.service(t.local.Engine, nil)
	t.close = func() {
		_ = t.local.Close()
		_ = m.Checkpoint.Close()
	}
	return t, nil
}

// write streams a completion to w, ends the line, and returns the text.
func (t *terminal) write(ctx context.Context, w io.Writer, r completion.Request) (string, error) {
	text, err := t.stream(ctx, w, r)
	if text != "" || err == nil {
		fmt.Fprintln(w)
	}
	return text, err
}

// stream writes a completion to w as it comes.
func (t *terminal) stream(ctx context.Context, w io.Writer, r completion.Request) (string, error) {
	run, err := t.service.Start(ctx, r)
	if err != nil {
		return "", err
	}
	defer run.Close()
	var all strings.Builder
	for {
		d, err := run.Next()
		if errors.Is(err, io.EOF) {
			return all.String(), nil
		}
		if err != nil {
			return all.String(), err
		}
		all.WriteString(d.Text)
		if _, err := io.WriteString(w, d.Text); err != nil {
			return all.String(), err
		}
	}
}

// GenerateCmd continues a prompt.
type GenerateCmd struct {
	modelFlags
	terminalFlags
	samplingFlags
	Prompt string `arg:"" help:"Text to continue; \"-\" reads it from standard input."`
}

// Run prints the prompt's continuation.
func (c *GenerateCmd) Run(log *slog.Logger, s *screen) error {
	ctx := context.Background() // a signal ends the process
	prompt := c.Prompt
	if prompt == "-" {
		all, err := io.ReadAll(os.Stdin)
		if err != nil {
			return fmt.Errorf("reading the prompt: %w", err)
		}
		prompt = string(all)
	}
	t, err := openTerminal(ctx, s, c.Model, c.options(log))
	if err != nil {
		return err
	}
	defer t.close()
	ids, err := t.tokens.Encode(ctx, prompt, true)
	if err != nil {
		return fmt.Errorf("the prompt: %w", err)
	}
	_, err = t.write(ctx, os.Stdout, c.request(t.text, ids))
	return err
}

// ChatCmd is a conversation.
type ChatCmd struct {
	modelFlags
	terminalFlags
	samplingFlags
	System string `help:"Text of a system message that comes first."`
}

// maxMessage bounds what is typed at once, in bytes.
const maxMessage = 1 << 20

// message is one of a conversation.
type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Run answers what is typed until standard input ends.
func (c *ChatCmd) Run(log *slog.Logger, s *screen) error {
	ctx := context.Background() // a signal ends the process
	t, err := openTerminal(ctx, s, c.Model, c.options(log))
	if err != nil {
		return err
	}
	defer t.close()
	if t.chat == nil {
		return fmt.Errorf("chat: %w; tandem generate continues text", chat.ErrNoTemplate)
	}
	var messages []message
	if c.System != "" {
		messages = append(messages, message{"system", c.System})
	}
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, maxMessage)
	for {
		fmt.Fprint(os.Stderr, "> ")
		if !input.Scan() {
			fmt.Fprintln(os.Stderr)
			if err := input.Err(); err != nil {
				return fmt.Errorf("reading standard input: %w", err)
			}
			return nil
		}
		if strings.TrimSpace(input.Text()) == "" {
			continue
		}
		answer, err := c.turn(ctx, t, append(messages, message{"user", input.Text()}))
		if err != nil {
			return err
		}
		messages = append(messages, message{"user", input.Text()}, message{"assistant", answer})
	}
}

// turn writes the answer to a conversation.
func (c *ChatCmd) turn(ctx context.Context, t *terminal, messages []message) (string, error) {
	raw, err := json.Marshal(messages)
	if err != nil {
		return "", fmt.Errorf("conversation: %w", err)
	}
	prompt, err := t.chat.Render(ctx, chat.Input{Messages: raw, AddGenerationPrompt: true})
	if err != nil {
		return "", fmt.Errorf("the model's chat template: %w", err)
	}
	ids, err := t.tokens.Encode(ctx, prompt, false)
	if err != nil {
		return "", fmt.Errorf("the conversation: %w", err)
	}
	return t.write(ctx, os.Stdout, c.request(t.text, ids))
}
