package settings

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// width is where comments are broken, in bytes.
const width = 96

// Print writes every option of the struct that of points to, as a file that Read takes,
// each below its comment. In a list's entries, what is not said is left out.
func Print(w io.Writer, of any) error {
	v := reflect.ValueOf(of).Elem()
	for i, f := range fieldsOf(v.Type()) {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		one := &yaml.Node{Kind: yaml.MappingNode, Content: pair(f, v.FieldByIndex(f.Index))}
		var text bytes.Buffer
		encoder := yaml.NewEncoder(&text)
		encoder.SetIndent(2)
		if err := encoder.Encode(one); err != nil {
			return fmt.Errorf("print %s: %w", f.key, err)
		}
		if _, err := w.Write(text.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// pair is an option's key, with its comment, and its value.
func pair(f field, v reflect.Value) []*yaml.Node {
	key := &yaml.Node{Kind: yaml.ScalarNode, Value: f.key, HeadComment: comment(f)}
	if v.Kind() != reflect.Struct {
		return []*yaml.Node{key, valueNode(v)}
	}
	m := &yaml.Node{Kind: yaml.MappingNode}
	for _, f := range fieldsOf(v.Type()) {
		m.Content = append(m.Content, pair(f, v.FieldByIndex(f.Index))...)
	}
	return []*yaml.Node{key, m}
}

// valueNode is a value without comments.
func valueNode(v reflect.Value) *yaml.Node {
	n := &yaml.Node{}
	switch {
	case v.Type() == duration:
		n.SetString(short(time.Duration(v.Int())))
	case v.Kind() == reflect.Pointer:
		return valueNode(v.Elem())
	case v.Kind() == reflect.Struct:
		n.Kind = yaml.MappingNode
		for _, f := range fieldsOf(v.Type()) {
			if said := v.FieldByIndex(f.Index); !said.IsZero() {
				n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: f.key}, valueNode(said))
			}
		}
	case v.Kind() == reflect.Slice:
		n.Kind = yaml.SequenceNode
		for i := range v.Len() {
			n.Content = append(n.Content, valueNode(v.Index(i)))
		}
	default:
		_ = n.Encode(v.Interface()) // of a scalar: it cannot fail
	}
	if n.Kind != yaml.ScalarNode && (len(n.Content) == 0 || v.Type() == reflect.TypeFor[[]string]()) {
		n.Style = yaml.FlowStyle
	}
	return n
}

// short is a duration without its zeros: 24h, not 24h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// comment says what an option is; of a list, what its entries hold too.
func comment(f field) string {
	text := f.doc
	if f.flag != "" {
		text = "--" + f.flag + ": " + text
	}
	lines := wrap(text, "")
	if f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct {
		lines = append(lines, entries(f.Type.Elem(), "  ")...)
	}
	return "# " + strings.Join(lines, "\n# ")
}

// entries describes the options of a list's entries.
func entries(t reflect.Type, indent string) (lines []string) {
	for _, f := range fieldsOf(t) {
		lines = append(lines, wrap(f.key+": "+f.doc, indent)...)
		if f.Type.Kind() == reflect.Pointer {
			lines = append(lines, entries(f.Type.Elem(), indent+"  ")...)
		}
	}
	return lines
}

// wrap breaks text into lines; those after the first stand deeper where there is an indent.
func wrap(text, indent string) (lines []string) {
	line, deeper := indent, indent
	if indent != "" {
		deeper += "    "
	}
	for _, word := range strings.Fields(text) {
		if len(strings.TrimSpace(line)) > 0 {
			if len(line)+1+len(word) <= width {
				line += " " + word
				continue
			}
			lines, line = append(lines, line), deeper
		}
		line += word
	}
	return append(lines, line)
}
