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
	flags := accessFlags{hubTokenFile: file}
	if _, err := flags.nodeToken(); err == nil || !strings.Contains(err.Error(), "--hub-token-file") || !strings.Contains(err.Error(), file) {
		t.Errorf("no file at start: %v", err)
	}
	put("hf_first\n")
	read, err := flags.nodeToken()
	if err != nil {
		t.Fatal(err)
	}
	put("hf_second")
	if got, err := read(); err != nil || got.Reveal() != "hf_second" {
		t.Errorf("after the Secret was rotated: %v, %v", got, err)
	}
	for _, bad := range []string{"", " \n", "hf_se cond", "hf_x\nhf_y", "hf_\x00z", "hf_ü", strings.Repeat("x", 64<<10)} {
		put(bad)
		_, atStart := flags.nodeToken()
		_, later := read()
		for _, err := range []error{atStart, later} {
			if err == nil {
				t.Errorf("%.20q was taken for a token", bad)
			} else if text := fmt.Sprint(err); bad != "" && strings.TrimSpace(bad) != "" && strings.Contains(text, strings.TrimSpace(bad)) {
				t.Errorf("the error shows what is in the file: %s", text)
			}
		}
	}
	if read, err := (accessFlags{}).nodeToken(); read != nil || err != nil {
		t.Errorf("without the flag: %t, %v", read != nil, err)
	}
}

func TestOpenIsParsedStrictly(t *testing.T) {
	good := accessFlags{open: []string{"org/*=team-a,team-b", "datasets/org/x=c"}}
	rules, err := good.openings()
	if err != nil || len(rules) != 2 || rules[0].Repos != "org/*" || len(rules[0].Namespaces) != 2 || rules[1].Namespaces[0] != "c" {
		t.Errorf("openings: %+v, %v", rules, err)
	}
	for _, bad := range []string{"", "org/*", "=team", "org/*=", "org/*=team-a,", "org/*=Team", "org/*=*", "org/[=team",
		"org/a,org/b=team", "org/* = team", "models/org/*=team", "org/*=team-a team-b", "org/*=-a"} {
		if rules, err := (accessFlags{open: []string{bad}}).openings(); err == nil || !strings.Contains(err.Error(), "team-a,team-b") {
			t.Errorf("--open %q: %+v, %v", bad, rules, err)
		}
	}
}
