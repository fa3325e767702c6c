package api_test

import (
	"reflect"
	"strings"

	"github.com/openai/openai-go/v3"
)

func openAICompletionFields() []string { return jsonNames(openai.CompletionNewParams{}) }

func openAIChatFields() []string { return jsonNames(openai.ChatCompletionNewParams{}) }

// jsonNames are the names of a struct's fields in JSON.
func jsonNames(of any) []string {
	var names []string
	t := reflect.TypeOf(of)
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			names = append(names, name)
		}
	}
	return names
}
