package completion_test

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tandem-moe/tandem/serve/completion"
	"github.com/tandem-moe/tandem/serve/completion/enginetest"
)

// Writes a prompt's continuation as its deltas arrive.
func ExampleService() {
	service := completion.New(completion.Config{
		Engine: enginetest.New(), Tokenizer: enginetest.Tokenizer{}, EOS: []int32{enginetest.EOS},
	})
	prompt, err := service.Tokenizer().Encode(context.Background(), "Say hello.", true)
	if err != nil {
		fmt.Println(err)
		return
	}
	run, err := service.Start(context.Background(), completion.Request{
		Prompts: [][]int32{prompt}, N: 1,
		MaxTokens: 100, Clip: true, Stop: []string{","}, SkipSpecial: true,
		Logprobs: -1, PromptLogprobs: -1,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer run.Close()
	for {
		delta, err := run.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Print(delta.Text)
	}
	fmt.Printf("\n%d tokens\n", run.Usage().Completion)
	// Output:
	// Hello from the fake engine
	// 27 tokens
}
