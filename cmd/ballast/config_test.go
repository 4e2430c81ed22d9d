package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/cmd/ballast/settings"
)

// ballast runs a command and returns what it writes to standard output.
func ballast(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := root()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// clean makes defaults be those of no environment.
func clean(t *testing.T) {
	t.Helper()
	for _, name := range []string{"HF_ENDPOINT", "NODE_NAME", "MODEL_EXPRESS_URL", "HF_TOKEN"} {
		t.Setenv(name, "")
	}
}

func configFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// load reads a file as ballast agent with flags does.
func load(t *testing.T, text string, flags ...string) (*config, error) {
	t.Helper()
	given, cmd := defaultConfig(), agentCommand()
	cmd.ResetFlags()
	settings.Register(cmd.Flags(), given)
	must(t, cmd.ParseFlags(flags))
	file := ""
	if text != "" {
		file = configFile(t, text)
	}
	c, _, err := loadConfig(cmd, file, given)
	return c, err
}

const everything = `
logLevel: debug
cache: {dir: /mnt, reservePercent: 0, reserveBytes: -1}
socket: /run/a.sock
csiUID: 7
httpAddress: 127.0.0.1:1
csiHTTPSocket: ""
kube: {enabled: true, nodeName: n1}
hubAPI: {address: ":8443", tlsCert: /c, tlsKey: /k}
hub: {endpoint: "https://hub.corp", tokenFile: /token, tokensOverHTTP: true, caFile: /ca}
connections: 3
publicFor: 2h
proofFor: 1m30s
proofGrace: 5s
refMaxAge: 10s
sources:
- {name: models, pvc: {dir: /sources/models, authority: true}}
- pvc: {dir: /sources/other}
- modelExpress: {url: "mx.dynamo:8001", tokenFile: /var/run/token, wait: 5m, streams: 2}
- hub: {}
manifests: {dir: /etc/ballast/manifests}
authorities:
- {repos: "team/*", authority: models}
- {repos: "datasets/team/*", authority: manifest}
open:
- {repos: "team/*", namespaces: [a, b]}
- {authority: models, namespaces: ["*"]}
`

func TestAConfigFileSaysAllThatAnAgentCanBeTold(t *testing.T) {
	clean(t)
	got, err := load(t, everything)
	must(t, err)
	want := &config{
		LogLevel: "debug", Cache: cacheConfig{"/mnt", 0, -1}, Socket: "/run/a.sock", CSIUID: 7, HTTPAddress: "127.0.0.1:1",
		Kube: kubeConfig{true, "n1"}, HubAPI: hubAPIConfig{":8443", "/c", "/k", 3 * time.Second},
		Hub:         hubConfig{Endpoint: "https://hub.corp", TokenFile: "/token", TokensOverHTTP: true, CAFile: "/ca"},
		Connections: 3, PublicFor: 2 * time.Hour, ProofFor: 90 * time.Second, ProofGrace: 5 * time.Second, RefMaxAge: 10 * time.Second,
		Sources: []sourceConfig{
			{Name: "models", PVC: &pvcConfig{"/sources/models", true}}, {Name: "pvc", PVC: &pvcConfig{"/sources/other", false}},
			{Name: "modelexpress", ModelExpress: &modelExpressConfig{"mx.dynamo:8001", "/var/run/token", 5 * time.Minute, 2}}, {Name: "hub", Hub: &struct{}{}},
		},
		Manifests:   manifestsConfig{"/etc/ballast/manifests"},
		Authorities: []bindingConfig{{"team/*", "models"}, {"datasets/team/*", "manifest"}},
		Open:        openings{{Repos: "team/*", Namespaces: []string{"a", "b"}}, {Authority: "models", Namespaces: []string{"*"}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	// Of every option the file above says something else than the default.
	var differ func(path string, a, b reflect.Value)
	differ = func(path string, a, b reflect.Value) {
		for f := range a.Type().Fields() {
			key := f.Tag.Get("yaml")
			x, y := a.FieldByIndex(f.Index), b.FieldByIndex(f.Index)
			switch {
			case key == "" || path+key == "hub.disabled": // which would contradict the rest
			case f.Type.Kind() == reflect.Struct:
				differ(path+key+".", x, y)
			case reflect.DeepEqual(x.Interface(), y.Interface()):
				t.Errorf("%s%s is what it is by default, %v: this test has not seen it work", path, key, x)
			}
			if key != "" && f.Tag.Get("doc") == "" {
				t.Errorf("%s%s is not documented", path, key)
			}
		}
	}
	differ("", reflect.ValueOf(*got), reflect.ValueOf(*defaultConfig()))
}

func TestFlagsWinOverTheFileAndTheFileOverTheEnvironment(t *testing.T) {
	clean(t)
	t.Setenv("HF_ENDPOINT", "https://env.corp")
	t.Setenv("NODE_NAME", "env")
	t.Setenv("MODEL_EXPRESS_URL", "env:8001")
	c, err := load(t, everything, "--node-name=flag", "--proof-for=3m", "--open", "x/*=c", "--open", "y/*=d", "--reserve-bytes=5")
	must(t, err)
	if c.Kube.NodeName != "flag" || c.ProofFor != 3*time.Minute || c.Cache.ReserveBytes != 5 || c.Cache.Dir != "/mnt" || c.Hub.Endpoint != "https://hub.corp" || c.Sources[2].ModelExpress.URL != "mx.dynamo:8001" {
		t.Errorf("got %+v", c)
	}
	if want := (openings{{Repos: "x/*", Namespaces: []string{"c"}}, {Repos: "y/*", Namespaces: []string{"d"}}}); !reflect.DeepEqual(c.Open, want) {
		t.Errorf("open is %+v", c.Open)
	}
	if c, err = load(t, "logLevel: warn\n"); err != nil || c.Hub.Endpoint != "https://env.corp" || c.Kube.NodeName != "env" || c.LogLevel != "warn" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestAConfigFileMayBeAbsentOnlyIfThatIsSaid(t *testing.T) {
	clean(t)
	absent := filepath.Join(t.TempDir(), "config.yaml")
	if out, err := ballast(t, "agent", "--print-config", "--config=-"+absent, "--log-level=warn"); err != nil || !strings.Contains(out, "logLevel: warn") {
		t.Errorf("%s, %v", out, err)
	}
	if _, err := ballast(t, "agent", "--print-config", "--config="+absent); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
	there := configFile(t, "logLevel: debug\n")
	if out, err := ballast(t, "agent", "--print-config", "--config=-"+there); err != nil || !strings.Contains(out, "logLevel: debug") {
		t.Errorf("%s, %v", out, err)
	}
	if _, err := ballast(t, "agent", "--print-config", "--config=-"+filepath.Join(there, "x")); err == nil {
		t.Error("what is no absence is taken for one")
	}
}

func TestTheChainWithoutSources(t *testing.T) {
	names := func(c *config) (list string) {
		for _, s := range c.Sources {
			list += s.Name + " "
		}
		return list
	}
	clean(t)
	if c, err := load(t, ""); err != nil || names(c) != "hub " {
		t.Errorf("%+v, %v", c, err)
	}
	t.Setenv("MODEL_EXPRESS_URL", "http://mx:8001")
	if c, err := load(t, ""); err != nil || names(c) != "modelexpress hub " || c.Sources[0].ModelExpress.URL != "http://mx:8001" || c.Sources[0].ModelExpress.Streams != 4 {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := load(t, "hub: {disabled: true}\nmanifests: {dir: /m}\n"); err != nil || names(c) != "modelexpress " {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := load(t, "sources: [{hub: {}}, {modelExpress: {}}]\n"); err != nil || names(c) != "hub modelexpress " {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestEveryMistakeInAConfigIsToldAtOnceWithItsLine(t *testing.T) {
	clean(t)
	for text, wants := range map[string][]string{
		"souces: []\n":                                                                                   {`config.yaml line 1: unknown key "souces" (did you mean "sources"?)`},
		"hub: {token: hf_sekrit}\n":                                                                      {`line 1: hub: unknown key "token" (did you mean`, "tokenFile"},
		"logLevel: loud\n":                                                                               {"line 1: logLevel:"},
		"publicFor: 0s\nproofFor: 1ms\n":                                                                 {"line 1: publicFor: 0s: must be at least 1s", "line 2: proofFor: 1ms: must be"},
		"proofGrace: -1s\nrefMaxAge: 0s\nconnections: 0\n":                                               {"line 1: proofGrace", "line 2: refMaxAge", "line 3: connections: 0: must be at least 1"},
		"cache: {reservePercent: .nan}\n":                                                                {"line 1: cache.reservePercent: NaN: must be from 0 to 100"},
		"hub:\n  endpoint: ftp://hub\n":                                                                  {"line 2: hub.endpoint:", "scheme must be http or https"},
		"hub:\n  endpoint: https://me:sekrit@hub\n":                                                      {"line 2: hub.endpoint:", "no user"},
		"sources: []\n":                                                                                  {"line 1: sources: there is none"},
		"sources:\n- name: x\n":                                                                          {"line 2: sources[0]: want one of pvc, modelExpress and hub, got none"},
		"sources:\n- {hub: {}, pvc: {dir: /x}}\n":                                                        {"line 2: sources[0]: want one of", "got hub and pvc"},
		"sources:\n- name: \"\"\n  hub: {}\n":                                                            {`line 2: sources[0].name: "": must be 1 to 32`},
		"sources:\n- name: Models\n  pvc: {dir: /x}\n":                                                   {`line 2: sources[0].name: "Models": must be`},
		"sources:\n- {pvc: {dir: /x}}\n- {pvc: {dir: /y}}\n":                                             {"line 3: sources[1]: sources[0] has the name pvc too"},
		"sources:\n- {name: hub, pvc: {dir: /x}}\n":                                                      {`sources[0].name: "hub" is another's name`},
		"sources:\n- {name: manifest, pvc: {dir: /x}}\n":                                                 {`"manifest" is another's name`},
		"sources:\n- {name: x, hub: {}}\n":                                                               {"the Hub's name is hub"},
		"sources:\n- {pvc: {}}\n":                                                                        {"line 2: sources[0].pvc.dir:", "absolute path"},
		"sources:\n- {pvc: {dir: models}}\n":                                                             {"absolute path"},
		"sources:\n- modelExpress:\n    wait: 1s\n":                                                      {"line 2: sources[0].modelExpress.url: there is none, nor $MODEL_EXPRESS_URL"},
		"sources:\n- modelExpress: {url: \"http://me:sekrit@mx\"}\n":                                     {"sources[0].modelExpress.url: it has a user in it"},
		"sources:\n- modelExpress: {url: mx, wait: -1s, streams: -1}\n":                                  {"wait: -1s", "streams: -1"},
		"hub: {disabled: true}\nsources:\n- hub: {}\n":                                                   {"line 3: sources[0]: the Hub is disabled", "line 1: hub.disabled: and there is no other authority"},
		"hub: {disabled: true}\nmanifests: {dir: /m}\n":                                                  {"sources: there is none"},
		"authorities:\n- {repos: \"team/*\", authority: models}\n":                                       {`line 2: authorities[0].authority: "models" is no authority; there are: hub`},
		"authorities:\n- {repos: \"models/team/*\", authority: hub}\n":                                   {"authorities[0].repos: a model's name begins with its organisation"},
		"authorities:\n- {authority: hub}\n":                                                             {"authorities[0].repos: no repositories are named"},
		"authorities:\n- {repos: \"[\", authority: hub}\n":                                               {`"[" is no pattern`},
		"manifests: {dir: /m}\nauthorities:\n- {repos: a/*, authority: manifests}\n":                     {`(did you mean "manifest"?)`},
		"sources:\n- {pvc: {dir: /x}}\nauthorities:\n- {repos: a/*, authority: pvc}\n":                   {"line 4: authorities[0].authority", "its pvc has no authority: true"},
		"sources:\n- {modelExpress: {url: mx}}\nauthorities:\n- {repos: a/*, authority: modelexpress}\n": {"a Model Express server gives bytes"},
		"hub: {disabled: true}\nmanifests: {dir: /m}\nsources: [{pvc: {dir: /x}}]\nauthorities:\n- {repos: a/*, authority: hub}\n": {`line 5: authorities[0].authority: "hub" is no authority: it is disabled`},
		"open:\n- {repos: a/*, authority: hub, namespaces: [a]}\n":                                                                 {"line 2: open[0]: want repos or authority, and not both"},
		"open:\n- namespaces: [a]\n":                   {"line 2: open[0]: want repos or authority"},
		"open:\n- {authority: hub, namespaces: [a]}\n": {"the Hub says itself who may read what"},
		"open:\n- {authority: modles, namespaces: [a]}\nsources: [{name: models, pvc: {dir: /x, authority: true}}]\n": {`(did you mean "models"?)`},
		"open:\n- {repos: a/*}\n":                         {"open[0].namespaces: no namespaces are named"},
		"open:\n- {repos: a/*, namespaces: [A]}\n":        {`"A" is no name of a namespace`},
		"open:\n- {repos: a/*, namespaces: [\"*\", a]}\n": {"stands alone"},
	} {
		_, err := ballast(t, "agent", "--cache-dir=/nowhere", "--config", configFile(t, text))
		if !errors.As(err, new(usageError)) || strings.Contains(err.Error(), "sekrit") {
			t.Errorf("%q: %v", text, err)
			continue
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q:\n%v\nwant %s", text, err, want)
			}
		}
	}
	for flag, want := range map[string]string{"--proof-for=0s": "--proof-for: 0s: must", "--connections=0": "--connections: 0", "--reserve-percent=NaN": "--reserve-percent: NaN",
		"--hub-endpoint=x": "--hub-endpoint:", "--open=x": "--open", "--log-level=loud": "--log-level:", "--config=/none/x": "--config: open /none/x"} {
		if _, err := ballast(t, "agent", "--cache-dir=/nowhere", flag); !errors.As(err, new(usageError)) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

// What only the files named in a config show to be wrong is told at once too, before
// anything is started or made.
func TestWhatAConfigsFilesLackIsToldBeforeAnythingStarts(t *testing.T) {
	clean(t)
	dir := t.TempDir()
	_, err := ballast(t, "agent", "--cache-dir="+filepath.Join(dir, "cache"), "--config", configFile(t, `
hub:
  tokenFile: /none/token
  caFile: /none/ca.pem
sources:
- {pvc: {dir: /none/models}}
- hub: {}
manifests: {dir: /none/manifests}
`))
	if !errors.As(err, new(usageError)) {
		t.Fatal(err)
	}
	for _, want := range []string{"line 3: hub.tokenFile: ", "/none/token", "line 4: hub.caFile: ", "/none/ca.pem", "line 6: sources[0]: ", "/none/models", "is the volume mounted", "line 8: manifests.dir: ", "/none/manifests"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("something was made: %v, %v", left, err)
	}
}

func TestThePrintedConfigMeansTheSame(t *testing.T) {
	clean(t)
	for name, text := range map[string]string{"defaults": "", "everything": everything, "no Hub": "hub: {disabled: true}\nmanifests: {dir: /m}\nsources: [{pvc: {dir: /x, authority: true}}]\n"} {
		want, err := load(t, text)
		must(t, err)
		args := []string{"agent", "--print-config"}
		if text != "" {
			args = append(args, "--config", configFile(t, text))
		}
		printed, err := ballast(t, args...)
		must(t, err)
		got, err := load(t, printed)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, printed)
		}
		for _, c := range []*config{got, want} { // no list and an empty one are the same
			c.Authorities, c.Open = append([]bindingConfig{}, c.Authorities...), append(openings{}, c.Open...)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v\nbecame %+v by\n%s", name, want, got, printed)
		}
		if name == "defaults" {
			for _, line := range []string{"# --cache-dir: directory of the cache; this process must own it\n  dir: /var/lib/ballast\n", "publicFor: 24h\n", "refMaxAge: 1m\n", "#   pvc: a Hugging Face cache", "  - name: hub\n    hub: {}\n", "open: []\n"} {
				if !strings.Contains(printed, line) {
					t.Errorf("%q is not in\n%s", line, printed)
				}
			}
			for line := range strings.Lines(printed) {
				if len(line) > 105 {
					t.Errorf("a line is long: %s", line)
				}
			}
		}
	}
}

// "-" is no file that may be absent: whoever pipes a config in is told.
func TestAConfigOfNoNameIsRefused(t *testing.T) {
	given, cmd := defaultConfig(), agentCommand()
	if _, _, err := loadConfig(cmd, "-", given); err == nil {
		t.Error("--config - is taken for no file at all")
	}
}
