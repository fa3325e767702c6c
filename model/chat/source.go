package chat

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/tandem-moe/tandem/internal/bounded"
	"github.com/tandem-moe/tandem/model/chat/jinja"
)

// The files of a model's folder that may hold its template. As in transformers,
// the .jinja files replace all that the others say, and tokenizer_config.json what
// chat_template.json does.
const (
	configFile  = "tokenizer_config.json"
	processor   = "chat_template.json" // as processors of images had it
	jinjaFile   = "chat_template.jinja"
	jinjaFolder = "additional_chat_templates" // NAME.jinja
	specialFile = "special_tokens_map.json"   // older
)

// Names of templates, where there are several.
const (
	defaultName = "default"
	toolsName   = "tool_use"
)

// source is a template before it is parsed.
type source struct {
	plain, tools *string // nil: there is none
	specials     []Special
	unusable     error // why there is no plain one
}

// readSource finds a folder's template and special tokens.
func readSource(dir fs.FS) (source, error) {
	var src source
	config, err := readObject(dir, configFile)
	if err != nil {
		return src, err
	}
	if src.specials, err = readSpecials(dir, config); err != nil {
		return src, err
	}
	templates := map[string]string{}
	if err := addFiles(templates, dir); err != nil {
		return src, err
	}
	if len(templates) == 0 {
		if err := addTemplates(templates, config); err != nil {
			src.unusable = fmt.Errorf("%s: %w", configFile, err)
			return src, nil
		}
	}
	if len(templates) == 0 {
		fields, err := readObject(dir, processor)
		if err != nil {
			return src, err
		}
		if err := addTemplates(templates, fields); err != nil {
			src.unusable = fmt.Errorf("%s: %w", processor, err)
			return src, nil
		}
	}
	return src.choose(templates)
}

// readSpecials reads the special tokens. Where tokenizer_config.json has
// added_tokens_decoder the older file is not looked at, else it has the last word:
// so it is in transformers.
func readSpecials(dir fs.FS, config *jinja.Dict) ([]Special, error) {
	specials := jinja.NewDict()
	addSpecials(specials, config)
	if extra, ok := config.Get("extra_special_tokens"); ok {
		if named, ok := extra.(*jinja.Dict); ok {
			addSpecials(specials, named)
		}
	}
	if !has(config, "added_tokens_decoder") {
		older, err := readObject(dir, specialFile)
		if err != nil {
			return nil, err
		}
		addSpecials(specials, older)
	}
	var out []Special
	for name, text := range specials.All() {
		out = append(out, Special{name, text.(string)})
	}
	return out, nil
}

// choose picks the templates by their names. Conversations without tools need the
// one that is named default.
func (src source) choose(templates map[string]string) (source, error) {
	if len(templates) == 0 {
		return src, ErrNoTemplate
	}
	if text, ok := templates[toolsName]; ok {
		src.tools = &text
	}
	if text, ok := templates[defaultName]; ok {
		src.plain = &text
		return src, nil
	}
	names := slices.Sorted(maps.Keys(templates))
	const most = 8
	src.unusable = fmt.Errorf("none of the %d templates is named %q (they are %q)", len(names), defaultName,
		names[:min(len(names), most)])
	return src, nil
}

// readObject reads a file of one JSON object. A file that is not there is an
// empty one.
func readObject(dir fs.FS, name string) (*jinja.Dict, error) {
	data, err := readFile(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return jinja.NewDict(), nil
	}
	if err != nil {
		return nil, err
	}
	v, err := jinja.FromJSON(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	d, ok := v.(*jinja.Dict)
	if !ok {
		return nil, fmt.Errorf("%s: want an object", name)
	}
	return d, nil
}

// maxFile bounds a file with a template, in bytes. Some tokenizer_config.json
// list thousands of tokens.
const maxFile = 32 << 20

func readFile(dir fs.FS, name string) ([]byte, error) {
	data, err := bounded.ReadFile(dir, name, maxFile)
	if err != nil {
		return nil, fmt.Errorf("reading the chat template: %w", err)
	}
	return data, nil
}

// addTemplates reads the field chat_template: a template, or a list of objects
// with a name and a template.
func addTemplates(templates map[string]string, fields *jinja.Dict) error {
	v, _ := fields.Get("chat_template")
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		templates[defaultName] = v
		return nil
	case *jinja.List:
		for i, item := range v.Items {
			d, _ := item.(*jinja.Dict)
			name, template := stringField(d, "name"), stringField(d, "template")
			if name == "" || template == "" {
				return fmt.Errorf("chat_template[%d]: want an object with name and template", i)
			}
			templates[name] = template
		}
		return nil
	case *jinja.Dict: // as processors have several
		for name, template := range v.All() {
			text, ok := template.(string)
			if !ok {
				return fmt.Errorf("chat_template: %q is not a string", name)
			}
			templates[name] = text
		}
		return nil
	}
	return errors.New("chat_template: want a string or a list")
}

func stringField(d *jinja.Dict, name string) string {
	if d == nil {
		return ""
	}
	v, _ := d.Get(name)
	s, _ := v.(string)
	return s
}

// addSpecials collects special tokens: the fields whose names end in _token. A
// token is a string, or an object with its content.
func addSpecials(specials, fields *jinja.Dict) {
	for name, v := range fields.All() {
		if !strings.HasSuffix(name, "_token") {
			continue
		}
		if d, ok := v.(*jinja.Dict); ok {
			v, _ = d.Get("content")
		}
		if text, ok := v.(string); ok {
			specials.Set(name, text)
		}
	}
}

// addFiles reads the templates that are files by themselves.
func addFiles(templates map[string]string, dir fs.FS) error {
	names := map[string]string{jinjaFile: defaultName}
	others, err := fs.Glob(dir, jinjaFolder+"/*.jinja")
	if err != nil {
		return fmt.Errorf("reading the chat templates: %w", err)
	}
	for _, path := range others {
		names[path] = strings.TrimSuffix(strings.TrimPrefix(path, jinjaFolder+"/"), ".jinja")
	}
	for path, name := range names {
		data, err := readFile(dir, path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		templates[name] = string(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
	}
	return nil
}
