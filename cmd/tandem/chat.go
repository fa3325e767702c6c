package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"github.com/tandem-moe/tandem/model/chat"
)

// ChatCmd is a conversation.
type ChatCmd struct {
	modelArg      `group:"Model:"`
	System        string `help:"Text of a system message that comes first."`
	NoHistory     bool   `help:"Neither read nor keep what was typed in earlier conversations."`
	serverFlags   `group:"Server:"`
	terminalFlags `group:"Model in this process (without --url):"`
	samplingFlags `group:"Sampling:"`
}

// Help is the end of the command's help.
func (*ChatCmd) Help() string {
	return `At a terminal, lines can be edited and searched (arrow keys, Ctrl-A, Ctrl-E,
Ctrl-R) as in a shell. Ctrl-C ends an answer, Ctrl-D the conversation. Otherwise
each line of standard input is a message.

    tandem chat --url http://127.0.0.1:8080`
}

// Validate refuses flags that would change nothing.
func (c *ChatCmd) Validate(command *kong.Context) error {
	c.Model = c.name(command, c.Model)
	return errors.Join(c.check(command), c.pick(command))
}

// message is one of a conversation.
type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// partner answers conversations: it writes an answer as it comes, ends its line,
// and returns it, also what there is of one that was interrupted.
type partner interface {
	answer(ctx context.Context, messages []message, w io.Writer) (string, error)
}

// Run answers what is typed until standard input ends.
func (c *ChatCmd) Run(log *slog.Logger, s *screen) error {
	p, end, err := c.partner(context.Background(), log, s)
	if err != nil {
		return err
	}
	defer end()
	lines, err := c.lines(log, s)
	if err != nil {
		return err
	}
	defer lines.close()
	talk := conversation{partner: p, screen: s, out: output(os.Stdout),
		patient: lines.interactive, interrupts: lines.interrupts}
	if c.System != "" {
		talk.messages = append(talk.messages, message{"system", c.System})
	}
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && strings.TrimSpace(line) != "" {
			err = talk.turn(line)
		}
		if err != nil {
			return err
		}
	}
}

// partner is a server, or a model in this process; end gives back what it has.
func (c *ChatCmd) partner(ctx context.Context, log *slog.Logger, s *screen) (p partner, end func(), err error) {
	if c.URL != "" {
		r, err := c.connect(ctx, c.Model, &c.samplingFlags)
		return r, func() {}, err
	}
	t, err := openTerminal(ctx, s, c.Model, c.options(log))
	if err != nil {
		return nil, nil, err
	}
	if t.chat == nil {
		t.close()
		return nil, nil, fmt.Errorf("chat: %w; tandem generate continues text", chat.ErrNoTemplate)
	}
	return &localPartner{t, &c.samplingFlags}, t.close, nil
}

// lines are those of standard input, with a history where they are edited.
func (c *ChatCmd) lines(log *slog.Logger, s *screen) (*lines, error) {
	if s.json || !editable() {
		return plainLines(os.Stdin, !s.json && term.IsTerminal(int(os.Stdin.Fd()))), nil
	}
	h := &history{}
	if !c.NoHistory {
		var err error
		if h, err = openHistory(); err != nil {
			log.Warn("what is typed is not kept", "error", err)
		}
	}
	return editedLines(h)
}

// conversation is what has been said.
type conversation struct {
	partner  partner
	screen   *screen
	out      io.Writer
	patient  bool // with failures: somebody is there to try again
	messages []message
	// interrupts end an answer; nil: those of the time of the answer do.
	interrupts <-chan os.Signal
}

// turn answers a line. Ctrl-C ends the answer, and what there is of it is part of
// the conversation; a line without an answer is not.
func (c *conversation) turn(line string) error {
	ctx, stop := c.interruptible()
	defer stop()
	asked := append(c.messages, message{"user", line})
	answer, err := c.partner.answer(ctx, asked, c.out)
	if answer != "" || err == nil {
		c.messages = append(asked, message{"assistant", answer})
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		if answer == "" {
			fmt.Fprintln(os.Stderr) // after the ^C that the terminal shows
		}
		return nil
	case c.patient:
		c.screen.fail(err, "")
		return nil
	}
	return err
}

// interruptible returns a context that an interrupt ends, where somebody is there to
// interrupt.
func (c *conversation) interruptible() (context.Context, func()) {
	switch {
	case !c.patient:
		return context.Background(), func() {}
	case c.interrupts == nil:
		return signal.NotifyContext(context.Background(), os.Interrupt)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case <-c.interrupts:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel()
		waiting.Wait()
	}
}

// localPartner is a model in this process.
type localPartner struct {
	*terminal
	sampling *samplingFlags
}

func (p *localPartner) answer(ctx context.Context, messages []message, w io.Writer) (string, error) {
	raw, err := json.Marshal(messages)
	if err != nil {
		return "", fmt.Errorf("conversation: %w", err)
	}
	prompt, err := p.chat.Render(ctx, chat.Input{Messages: raw, AddGenerationPrompt: true})
	if err != nil {
		return "", fmt.Errorf("the model's chat template: %w", err)
	}
	ids, err := p.tokens.Encode(ctx, prompt, false)
	if err != nil {
		return "", fmt.Errorf("the conversation: %w", err)
	}
	return p.write(ctx, w, p.sampling.request(p.text, ids))
}
