package settings

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// field is an option: a field of a struct that has a key.
type field struct {
	reflect.StructField
	key, flag, doc string
}

// fieldsOf returns a struct's options in their order.
func fieldsOf(t reflect.Type) (list []field) {
	for f := range t.Fields() {
		if key := f.Tag.Get("yaml"); key != "" {
			list = append(list, field{f, key, f.Tag.Get("flag"), f.Tag.Get("doc")})
		}
	}
	return list
}

func find(fields []field, key string) (field, bool) {
	i := slices.IndexFunc(fields, func(f field) bool { return f.key == key })
	if i < 0 {
		return field{}, false
	}
	return fields[i], true
}

func names(fields []field) (keys []string) {
	for _, f := range fields {
		keys = append(keys, f.key)
	}
	return keys
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// Places says where options were given.
type Places struct {
	file  string
	lines map[string]int // by path, as "sources[1].pvc.dir"; byFlag if a flag gave it
	of    reflect.Type
}

const byFlag = -1

// Defaults are the Places of a struct that no file was read into.
func Defaults(of any) *Places {
	return &Places{lines: map[string]int{}, of: reflect.TypeOf(of).Elem()}
}

// Given reports whether the file says what counts of path.
func (p *Places) Given(path string) bool { return p.lines[path] > 0 }

// flagged notes that a flag gave the option at path, so that nothing the file says of it
// or of what is part of it counts.
func (p *Places) flagged(path string) {
	for at := range p.lines {
		if strings.HasPrefix(at, path+"[") || strings.HasPrefix(at, path+".") {
			delete(p.lines, at)
		}
	}
	p.lines[path] = byFlag
}

// Name is what to call the option at path to who gave it: the file's line and its path, or
// its flag, or its path alone. Where nothing was said of it, the line or the flag is of
// what it is part of.
func (p *Places) Name(path string) string {
	flag := ""
	for at := path; at != ""; at = at[:max(0, strings.LastIndexAny(at, ".["))] {
		if flag == "" {
			flag = flagAt(p.of, at)
		}
		switch line := p.lines[at]; {
		case line == byFlag:
			return "--" + flag
		case line > 0:
			return fmt.Sprintf("%s line %d: %s", p.file, line, path)
		}
	}
	if flag == "" {
		return path
	}
	return "--" + flag
}

// flagAt returns the flag of the option at path, or "".
func flagAt(t reflect.Type, path string) string {
	key, rest, deeper := strings.Cut(path, ".")
	f, ok := find(fieldsOf(t), key)
	switch {
	case !ok || deeper && f.Type.Kind() != reflect.Struct:
		return ""
	case deeper:
		return flagAt(f.Type, rest)
	}
	return f.flag
}

// Suggest returns " (did you mean "x"?)" if what was written is nearly one of names, or
// how one begins.
func Suggest(written string, names []string) string {
	best, least := "", max(2, len(written)/4)+1
	for _, name := range names {
		a, b := strings.ToLower(written), strings.ToLower(name)
		d := distance(a, b)
		if len(a) > 2 && strings.HasPrefix(b, a) {
			d = min(d, 1)
		}
		if d < least && d < len(name) {
			best, least = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance is how many letters must be added, dropped or changed to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, row[j]+1, corner+1)
		}
	}
	return row[len(b)]
}
