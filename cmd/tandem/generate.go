package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/alecthomas/kong"

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
	}{{&s.Temperature, d.Temperature, f.Temperature}, {&s.TopP, d.TopP, f.TopP}, {&s.MinP, d.MinP,
		nil}, {&s.RepetitionPenalty, d.RepetitionPenalty, nil}} {
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
	Prompt        string `arg:"" help:"Text to continue; \"-\" reads it from standard input."`
	serverFlags   `group:"Server:"`
	modelFlags    `group:"Model:"`
	terminalFlags `group:"Model in this process (without --url):"`
	samplingFlags `group:"Sampling:"`
}

// Validate refuses flags that would change nothing.
func (c *GenerateCmd) Validate(command *kong.Context) error {
	c.Model = c.name(command, c.Model)
	return c.check(command)
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
	out := output(os.Stdout)
	if c.URL != "" {
		r, err := c.connect(ctx, c.Model, &c.samplingFlags)
		if err != nil {
			return err
		}
		_, err = r.generate(ctx, prompt, out)
		return err
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
	_, err = t.write(ctx, out, c.request(t.text, ids))
	return err
}
