package settings_test

import (
	"bytes"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/ballast-csi/ballast/cmd/ballast/settings"
)

type options struct {
	Name   string        `yaml:"name" flag:"name" doc:"what it is called"`
	Wait   time.Duration `yaml:"wait" flag:"wait" doc:"how long"`
	Cache  cache         `yaml:"cache" doc:"what is kept"`
	Chain  []link        `yaml:"chain" doc:"what is asked, in order; each has a kind"`
	Tags   []string      `yaml:"tags" doc:"words"`
	hidden int
}

type cache struct {
	Dir   string  `yaml:"dir" flag:"cache-dir" doc:"directory of the cache"`
	Bytes int64   `yaml:"bytes" flag:"bytes" doc:"bytes left free"`
	Part  float64 `yaml:"part" flag:"part" doc:"percent left free"`
	Used  bool    `yaml:"used" flag:"used" doc:"whether it is used"`
}

type link struct {
	Name string    `yaml:"name" doc:"a word"`
	Far  *far      `yaml:"far" doc:"a far one"`
	Near *struct{} `yaml:"near" doc:"a near one"`
}

type far struct {
	Streams int `yaml:"streams" doc:"how many at once"`
}

func defaults() *options {
	return &options{Name: "default", Wait: time.Minute, Cache: cache{Dir: "/var", Part: 20}, hidden: 7}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const all = `name: "yes"
wait: 90s
cache: {dir: /mnt, bytes: -1, part: 2.5, used: true}
tags: [a, b]
chain:
- name: first
  far:
    streams: 4
- near: {}
- near:
`

func TestAFileSaysWhatItSaysAndNothingElseChanges(t *testing.T) {
	got := defaults()
	_, err := settings.Read("/etc/options.yaml", []byte(all), got)
	must(t, err)
	want := &options{Name: "yes", Wait: 90 * time.Second, Cache: cache{"/mnt", -1, 2.5, true}, Tags: []string{"a", "b"},
		Chain: []link{{Name: "first", Far: &far{4}}, {Near: &struct{}{}}, {Near: &struct{}{}}}, hidden: 7}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	for _, nothing := range []string{"", "# a comment\n", "---\n", "cache:\n", "{}"} {
		got := defaults()
		if _, err := settings.Read("x", []byte(nothing), got); err != nil || !reflect.DeepEqual(got, defaults()) {
			t.Errorf("%q: %+v, %v", nothing, got, err)
		}
	}
}

func TestEveryMistakeIsToldWithItsLineAndWhatIsAllowed(t *testing.T) {
	for text, want := range map[string]string{
		"name: x\nchian: []\n":                     `options.yaml line 2: unknown key "chian" (did you mean "chain"?); allowed: name, wait, cache, chain, tags`,
		"cache:\n  DIR: /x\n":                      `line 2: cache: unknown key "DIR" (did you mean "dir"?); allowed: dir, bytes, part, used`,
		"sekrit: 1\n":                              `line 1: unknown key "sekrit"; allowed:`,
		"hidden: 1\n":                              `line 1: unknown key "hidden"; allowed`,
		"chain:\n- near: {x: 1}\n":                 `line 2: chain[0].near: unknown key "x"; nothing is allowed in it`,
		"chain:\n- far: {stream: 1}\n":             `line 2: chain[0].far: unknown key "stream" (did you mean "streams"?)`,
		"name: a\nwait: 1s\nname: b\n":             `line 3: name is said twice: line 1 says it too`,
		"cache:\n  dir: a\n  dir: b\n":             `line 3: cache.dir is said twice: line 2`,
		"name: a\n---\nname: b\n":                  `line 2: a second document: there may be one`,
		"name: 12\n":                               `line 1: name: want a text (in quotes`,
		"name: [a]\n":                              `line 1: name: want a text`,
		"name:\n":                                  `line 1: name: it has no value; want a text`,
		"wait: 90\n":                               `line 1: wait: want a duration, as 90s, 10m or 24h`,
		"wait: soon\n":                             `line 1: wait: want a duration`,
		"cache: {used: 1}\n":                       `cache.used: want true or false`,
		"cache: {bytes: 1.5}\n":                    `cache.bytes: want a whole number`,
		"cache: {bytes: 99999999999999999999}\n":   `cache.bytes: want a whole number`,
		"cache: {part: many}\n":                    `cache.part: want a number`,
		"cache: /var\n":                            `cache: want a mapping; allowed: dir, bytes`,
		"tags: a\n":                                `tags: want a list of texts`,
		"tags: [a, 1]\n":                           `tags[1]: want a text`,
		"chain: {}\n":                              `chain: want a list of mappings, each with some of: name, far, near`,
		"chain: [a]\n":                             `chain[0]: want a mapping; allowed: name, far, near`,
		"chain:\n":                                 `chain: it has no value; want a list`,
		"- name\n":                                 `line 1: want a mapping`,
		"name: [\n":                                `options.yaml: yaml: line 1`,
		"name: a\n---\n[\n":                        `options.yaml: yaml: `,
		"? [name]\n: a\n":                          `unknown key`,
		"name: a\nwait: soon\nchian: 1\ntags: 1\n": "line 2: wait: want a duration, as 90s, 10m or 24h\noptions.yaml line 3: unknown key",
	} {
		if _, err := settings.Read("/etc/options.yaml", []byte(text), defaults()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\n%v\nwant %s", text, err, want)
		}
	}
	if _, err := settings.Read("x", []byte("cache: hf_sekrit\ntags: hf_sekrit\nwait: hf_sekrit\n"), defaults()); err == nil || strings.Contains(err.Error(), "hf_sekrit") {
		t.Errorf("a value is repeated: %v", err)
	}
}

func TestWhatIsPrintedIsAFileThatMeansTheSame(t *testing.T) {
	said := defaults()
	_, err := settings.Read("x", []byte(all), said)
	must(t, err)
	said.Name = "a: #\n \"b\" ~"
	for _, o := range []*options{said, defaults()} {
		var text bytes.Buffer
		must(t, settings.Print(&text, o))
		again := &options{hidden: 7}
		if _, err := settings.Read("x", text.Bytes(), again); err != nil {
			t.Fatalf("%v\n%s", err, &text)
		}
		if len(o.Chain) == 0 {
			again.Chain, again.Tags = nil, nil // no list and an empty one are the same
		}
		if !reflect.DeepEqual(again, o) {
			t.Errorf("%+v\nbecame %+v by\n%s", o, again, &text)
		}
		for _, comment := range []string{"# --cache-dir: directory of the cache\n  dir: ", "# what is asked, in order; each has a kind\n#   name: a word\n#   far: a far one\n#     streams: how many at once\n#   near: a near one\nchain:"} {
			if !strings.Contains(text.String(), comment) {
				t.Errorf("%q is not in\n%s", comment, &text)
			}
		}
	}
}

func TestFlagsWinOverTheFileAndAreNamed(t *testing.T) {
	given := defaults()
	flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	settings.Register(flags, given)
	must(t, flags.Parse([]string{"--cache-dir=/flag", "--wait=1h", "--bytes", "5"}))
	got := defaults()
	places, err := settings.Read("/etc/options.yaml", []byte("name: file\ncache:\n  dir: /file\n  part: 3\nchain:\n- name: one\n"), got)
	must(t, err)
	places.Override(flags, given, got)
	want := &options{Name: "file", Wait: time.Hour, Cache: cache{Dir: "/flag", Bytes: 5, Part: 3}, Chain: []link{{Name: "one"}}, hidden: 7}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	for path, want := range map[string]string{
		"name":                 "options.yaml line 1: name",
		"cache.dir":            "--cache-dir",
		"cache.part":           "options.yaml line 4: cache.part",
		"chain[0].name":        "options.yaml line 6: chain[0].name",
		"chain[0].far.streams": "options.yaml line 6: chain[0].far.streams",
		"wait":                 "--wait",
		"tags":                 "tags",
	} {
		if got := places.Name(path); got != want {
			t.Errorf("%s is called %q, want %q", path, got, want)
		}
	}
	if !places.Given("chain[0].name") || places.Given("chain[0].far") || places.Given("cache.dir") {
		t.Error("what the file says is not known")
	}
	if got := settings.Defaults(got).Name("cache.dir"); got != "--cache-dir" {
		t.Errorf("without a file it is called %q", got)
	}
}
