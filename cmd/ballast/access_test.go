package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheNodesTokenIsReadAnewAndNeverShown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := nodeToken(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("no file at start: %v", err)
	}
	put("hf_first\n")
	read, err := nodeToken(file)
	if err != nil {
		t.Fatal(err)
	}
	put("hf_second")
	if got, err := read(); err != nil || got.Reveal() != "hf_second" {
		t.Errorf("after the Secret was rotated: %v, %v", got, err)
	}
	for _, bad := range []string{"", " \n", "hf_se cond", "hf_x\nhf_y", "hf_\x00z", "hf_ü", strings.Repeat("x", 64<<10)} {
		put(bad)
		_, atStart := nodeToken(file)
		_, later := read()
		for _, err := range []error{atStart, later} {
			if err == nil {
				t.Errorf("%.20q was taken for a token", bad)
			} else if text := fmt.Sprint(err); bad != "" && strings.TrimSpace(bad) != "" && strings.Contains(text, strings.TrimSpace(bad)) {
				t.Errorf("the error shows what is in the file: %s", text)
			}
		}
	}
	if read, err := nodeToken(""); read != nil || err != nil {
		t.Errorf("without a file: %t, %v", read != nil, err)
	}
}

func TestOpenIsParsedStrictly(t *testing.T) {
	var good openings
	for _, text := range []string{"org/*=team-a,team-b", "datasets/org/x=c", "org/*=*"} {
		must(t, good.Set(text))
	}
	rules := good.rules()
	if len(rules) != 3 || rules[0].Repos != "org/*" || len(rules[0].Namespaces) != 2 || rules[1].Namespaces[0] != "c" || rules[2].Namespaces[0] != "*" {
		t.Errorf("openings: %+v", rules)
	}
	for _, bad := range []string{"", "org/*", "=team", "org/*=", "org/*=team-a,", "org/*=Team", "org/*=*,team", "org/*=team-*", "org/[=team",
		"org/a,org/b=team", "org/* = team", "models/org/*=team", "org/*=team-a team-b", "org/*=-a"} {
		var rules openings
		if err := rules.Set(bad); err == nil || !strings.Contains(err.Error(), "team-a,team-b") || len(rules) > 0 {
			t.Errorf("--open %q: %+v, %v", bad, rules, err)
		}
	}
}
