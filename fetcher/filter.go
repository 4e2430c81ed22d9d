package fetcher

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Filter chooses files of a Manifest by the Hub's own patterns: allow_patterns
// (include) and ignore_patterns (exclude) of huggingface_hub's snapshot_download.
// Filter is comparable; two Filters are equal if they hold the same patterns in
// any order. The zero Filter lets everything through.
type Filter struct {
	include, exclude string // sorted, distinct, joined with "\n"
}

// Limits on one list of patterns, the whole in bytes: a Filter is matched against
// every file of a Manifest.
const (
	maxPatterns     = 64
	maxPatternBytes = 4 << 10
	maxPattern      = 1024
)

// NewFilter takes patterns of Python's fnmatch.fnmatchcase, against the whole
// path: '*' matches anything, '/' included, '?' one character, '[seq]' and
// '[!seq]' one character in or not in seq; there is no other meaning. As in
// huggingface_hub (utils/_paths.py), '\' is '/', in patterns and in paths, and a
// pattern that ends in '/' means everything below. Each list holds at most 64
// distinct patterns of together 4 KiB.
func NewFilter(include, exclude []string) (Filter, error) {
	in, err := joinPatterns(include)
	if err != nil {
		return Filter{}, fmt.Errorf("include: %w", err)
	}
	ex, err := joinPatterns(exclude)
	if err != nil {
		return Filter{}, fmt.Errorf("exclude: %w", err)
	}
	return Filter{in, ex}, nil
}

func joinPatterns(patterns []string) (string, error) {
	clean := make([]string, 0, len(patterns))
	for _, p := range patterns {
		if p == "" || len(p) > maxPattern || !utf8.ValidString(p) || strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", fmt.Errorf("pattern %q: must be 1 to %d bytes of UTF-8 without control characters", p[:min(len(p), 64)], maxPattern)
		}
		if p = slashes(p); strings.HasSuffix(p, "/") {
			p += "*"
		}
		clean = append(clean, p)
	}
	slices.Sort(clean)
	clean = slices.Compact(clean)
	joined := strings.Join(clean, "\n")
	if len(clean) > maxPatterns || len(joined) > maxPatternBytes {
		return "", fmt.Errorf("%d patterns of %d bytes: at most %d patterns of %d bytes in all", len(clean), len(joined), maxPatterns, maxPatternBytes)
	}
	return joined, nil
}

func slashes(s string) string { return strings.ReplaceAll(s, `\`, "/") }

// Include returns the patterns of which a file must match one; none means any file.
func (f Filter) Include() []string { return splitPatterns(f.include) }

// Exclude returns the patterns of which a file may match none.
func (f Filter) Exclude() []string { return splitPatterns(f.exclude) }

func splitPatterns(joined string) []string {
	if joined == "" {
		return nil
	}
	return strings.Split(joined, "\n")
}

// Matcher returns a function that reports whether f lets a path through.
func (f Filter) Matcher() func(Path) bool {
	include, exclude := parsePatterns(f.Include()), parsePatterns(f.Exclude())
	return func(p Path) bool {
		name := []rune(slashes(p.s))
		match := func(pattern []element) bool { return fnmatch(pattern, name) }
		return (include == nil || slices.ContainsFunc(include, match)) && !slices.ContainsFunc(exclude, match)
	}
}

// element is a part of a pattern that matches one character, or any number.
type element struct {
	kind byte   // '*', '?', '[', or 'c' for itself
	self rune   // of 'c'
	set  []rune // of '[': members and ranges, perhaps after '!'
}

func parsePatterns(patterns []string) (parsed [][]element) {
	for _, p := range patterns {
		parsed = append(parsed, parsePattern([]rune(p)))
	}
	return parsed
}

func parsePattern(pattern []rune) []element {
	var list []element
	lastEnd := -1 // of all "]"; after it, a '[' is never closed
	for i, c := range pattern {
		if c == ']' {
			lastEnd = i
		}
	}
	for i := 0; i < len(pattern); i++ {
		e := element{kind: 'c', self: pattern[i]}
		switch pattern[i] {
		case '*', '?':
			e = element{kind: byte(pattern[i])}
		case '[':
			if i > lastEnd {
				break
			}
			if end := setEnd(pattern[i:]); end > 0 {
				e = element{kind: '[', set: pattern[i+1 : i+end]}
				i += end
			}
		}
		list = append(list, e)
	}
	return list
}

// fnmatch is Python's fnmatch.fnmatchcase. It never backtracks past the last '*',
// so hostile patterns take time linear in pattern × name.
func fnmatch(pattern []element, name []rune) bool {
	p, n := 0, 0
	star, mark := -1, 0 // the last '*', and where in name it may have to reach further
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p].kind == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && pattern[p].match(name[n]):
			p++
			n++
		case star < 0:
			return false
		default:
			mark++
			p, n = star+1, mark
		}
	}
	for p < len(pattern) && pattern[p].kind == '*' {
		p++
	}
	return p == len(pattern)
}

// match reports whether e, which is not '*', matches c.
func (e element) match(c rune) bool {
	switch e.kind {
	case '?':
		return true
	case '[':
		return matchSet(e.set, c)
	}
	return e.self == c
}

// setEnd returns the index of the ']' that closes the set pattern begins with, or
// 0. A ']' right after "[" or "[!" is a member, not the end.
func setEnd(pattern []rune) int {
	i := 1
	if i < len(pattern) && pattern[i] == '!' {
		i++
	}
	if i < len(pattern) && pattern[i] == ']' {
		i++
	}
	for ; i < len(pattern); i++ {
		if pattern[i] == ']' {
			return i
		}
	}
	return 0
}

// matchSet reports whether c is in the set of single characters and ranges.
func matchSet(set []rune, c rune) bool {
	not := len(set) > 0 && set[0] == '!'
	if not {
		set = set[1:]
	}
	for i := 0; i < len(set); i++ {
		lo, hi := set[i], set[i]
		if i+2 < len(set) && set[i+1] == '-' {
			hi = set[i+2]
			i += 2
		}
		if lo <= c && c <= hi {
			return !not
		}
	}
	return not
}
