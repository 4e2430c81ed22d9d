package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Read takes what the file of that name says, which is text, into the struct that into
// points to. What the file does not say stays as it is; a list is replaced whole.
func Read(name string, text []byte, into any) (*Places, error) {
	r := &reader{places: Places{file: filepath.Base(name), lines: map[string]int{}, of: reflect.TypeOf(into).Elem()}}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, more yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return &r.places, nil // it says nothing
	case err != nil:
		return nil, fmt.Errorf("%s: %w", r.places.file, err)
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.places.file, err)
		}
		r.fail(more.Line, "", "a second document: there may be one")
	}
	r.value(document.Content[0], "", reflect.ValueOf(into).Elem())
	return &r.places, errors.Join(r.errs...)
}

// reader collects what is wrong with a file.
type reader struct {
	places Places
	errs   []error
}

func (r *reader) fail(line int, path, format string, args ...any) {
	said := fmt.Sprintf(format, args...)
	if path != "" {
		said = path + ": " + said
	}
	r.errs = append(r.errs, fmt.Errorf("%s line %d: %s", r.places.file, line, said))
}

// value takes n, which is at path, into a field.
func (r *reader) value(n *yaml.Node, path string, to reflect.Value) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	empty := n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
	switch {
	case to.Kind() == reflect.Pointer:
		to.Set(reflect.New(to.Type().Elem()))
		r.value(n, path, to.Elem())
	case to.Kind() == reflect.Struct && (n.Kind == yaml.MappingNode || empty):
		r.mapping(n, path, to)
	case empty:
		r.fail(n.Line, path, "it has no value; want %s", wanted(to.Type()))
	case to.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		list := reflect.MakeSlice(to.Type(), len(n.Content), len(n.Content))
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			r.places.lines[at] = item.Line
			r.value(item, at, list.Index(i))
		}
		to.Set(list)
	case n.Kind != yaml.ScalarNode || !scalar(n, to):
		r.fail(n.Line, path, "want %s", wanted(to.Type()))
	}
}

// mapping takes the keys of n into the fields of a struct.
func (r *reader) mapping(n *yaml.Node, path string, to reflect.Value) {
	fields := fieldsOf(to.Type())
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		f, known := find(fields, key.Value)
		at := join(path, key.Value)
		switch line, twice := seen[key.Value]; {
		case key.Kind != yaml.ScalarNode || !known:
			r.fail(key.Line, path, "unknown key %q%s; %s", key.Value, Suggest(key.Value, names(fields)), allowed(fields))
		case twice:
			r.fail(key.Line, "", "%s is said twice: line %d says it too", at, line)
		default:
			seen[key.Value] = key.Line
			r.places.lines[at] = key.Line
			r.value(n.Content[i+1], at, to.FieldByIndex(f.Index))
		}
	}
}

func allowed(fields []field) string {
	if len(fields) == 0 {
		return "nothing is allowed in it"
	}
	return "allowed: " + strings.Join(names(fields), ", ")
}

var duration = reflect.TypeFor[time.Duration]()

// scalar takes n into a field if it is of its type.
func scalar(n *yaml.Node, to reflect.Value) bool {
	tag := n.ShortTag()
	switch {
	case to.Type() == duration:
		d, err := time.ParseDuration(n.Value)
		to.SetInt(int64(d))
		return tag == "!!str" && err == nil
	case to.Kind() == reflect.String && tag != "!!str", to.Kind() == reflect.Bool && tag != "!!bool":
		return false
	case to.CanInt() && tag != "!!int", to.CanFloat() && tag != "!!int" && tag != "!!float":
		return false
	}
	return n.Decode(to.Addr().Interface()) == nil
}

// wanted is what a field of this type is given, in words.
func wanted(t reflect.Type) string {
	switch {
	case t == duration:
		return "a duration, as 90s, 10m or 24h"
	case t.Kind() == reflect.String:
		return "a text (in quotes if it looks like something else)"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float64:
		return "a number"
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return "a list of texts"
	case t.Kind() == reflect.Slice:
		return "a list of mappings, each with some of: " + strings.Join(names(fieldsOf(t.Elem())), ", ")
	case t.Kind() == reflect.Struct:
		return "a mapping; " + allowed(fieldsOf(t))
	}
	return "a whole number"
}
