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

// maxPattern bounds one pattern in bytes.
const maxPattern = 1024

// NewFilter takes patterns of Python's fnmatch.fnmatchcase, against the whole
// path: '*' matches anything, '/' included, '?' one character, '[seq]' and
// '[!seq]' one character in or not in seq; there is no other meaning. As in
// huggingface_hub (utils/_paths.py), '\' is '/', in patterns and in paths, and a
// pattern that ends in '/' means everything below.
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
	return strings.Join(slices.Compact(clean), "\n"), nil
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

// Match reports whether f lets p through.
func (f Filter) Match(p Path) bool {
	name := []rune(slashes(p.s))
	match := func(pattern string) bool { return fnmatch([]rune(pattern), name) }
	return (f.include == "" || slices.ContainsFunc(f.Include(), match)) && !slices.ContainsFunc(f.Exclude(), match)
}

// fnmatch is Python's fnmatch.fnmatchcase. It never backtracks past the last '*',
// so hostile patterns take time linear in pattern × name.
func fnmatch(pattern, name []rune) bool {
	p, n := 0, 0
	star, mark := -1, 0 // the last '*', and where in name it may have to reach further
	for n < len(name) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, n
			p++
			continue
		}
		if width, ok := matchOne(pattern[p:], name[n]); ok {
			p += width
			n++
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, n = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchOne reports whether pattern's first element, which is width runes long and
// not '*', matches c.
func matchOne(pattern []rune, c rune) (width int, ok bool) {
	if len(pattern) == 0 {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		if end := setEnd(pattern); end > 0 {
			return end + 1, matchSet(pattern[1:end], c)
		}
	}
	return 1, pattern[0] == c // a '[' that is never closed is itself
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
