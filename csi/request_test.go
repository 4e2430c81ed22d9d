package csi

import (
	"maps"
	"slices"
	"strings"
	"testing"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/ballast-csi/ballast/fetcher"
)

const somewhere = "/pods/1/volumes/kubernetes.io~csi/model/mount"

func TestPublishRefusesOneBrokenThing(t *testing.T) {
	attribute := func(name, value string) func(*spec.NodePublishVolumeRequest) {
		return func(r *spec.NodePublishVolumeRequest) { r.VolumeContext[name] = value }
	}
	secret := func(name, value string) func(*spec.NodePublishVolumeRequest) {
		return func(r *spec.NodePublishVolumeRequest) { r.Secrets = map[string]string{name: value} }
	}
	for name, test := range map[string]struct {
		broken func(*spec.NodePublishVolumeRequest)
		want   []string // in the text
	}{
		"no volume id":       {func(r *spec.NodePublishVolumeRequest) { r.VolumeId = "" }, []string{"volume_id"}},
		"NUL in volume id":   {func(r *spec.NodePublishVolumeRequest) { r.VolumeId = "a\x00/b" }, []string{"volume_id"}},
		"no target":          {func(r *spec.NodePublishVolumeRequest) { r.TargetPath = "" }, []string{"target_path"}},
		"relative target":    {func(r *spec.NodePublishVolumeRequest) { r.TargetPath = "pods/mount" }, []string{"target_path", "absolute"}},
		"unclean target":     {func(r *spec.NodePublishVolumeRequest) { r.TargetPath = "/pods/../etc" }, []string{"target_path", "clean"}},
		"no capability":      {func(r *spec.NodePublishVolumeRequest) { r.VolumeCapability = nil }, []string{"volume_capability"}},
		"block":              {func(r *spec.NodePublishVolumeRequest) { r.VolumeCapability.AccessType = &spec.VolumeCapability_Block{} }, []string{"block", "volumeMode: Filesystem"}},
		"inline, writable":   {func(r *spec.NodePublishVolumeRequest) { r.Readonly = false }, []string{"readOnly: true", "driver: csi.ballast.dev", "repo: Qwen/Qwen3-0.6B"}},
		"no repo":            {func(r *spec.NodePublishVolumeRequest) { delete(r.VolumeContext, "repo") }, []string{"repo", "org/name"}},
		"empty repo":         {attribute("repo", ""), []string{"repo", "org/name", "datasets/"}},
		"bad repo":           {attribute("repo", "a/b/c"), []string{"repo", "a/b/c", "org/name"}},
		"space in repo":      {attribute("repo", " a/b"), []string{"repo"}},
		"traversing repo":    {attribute("repo", "../etc"), []string{"repo"}},
		"bad revision":       {attribute("revision", "a..b"), []string{"revision", "a..b", "branch"}},
		"bad layout":         {attribute("layout", "hub_cache"), []string{"layout", "hub_cache", "snapshot", "hub-cache"}},
		"include of nothing": {attribute("include", " ,\n, "), []string{"include", "*.safetensors"}},
		"control in include": {attribute("include", "a\x01"), []string{"include"}},
		"long exclude":       {attribute("exclude", strings.Repeat("a", 2000)), []string{"exclude", "1024"}},
		"typo":               {attribute("revison", "main"), []string{`"revison"`, "Did you mean revision?", "exclude, include, layout, repo, revision"}},
		"case":               {attribute("Repo", "a/b"), []string{`"Repo"`, "Did you mean repo?"}},
		"far from any":       {attribute("bandwidth", "1"), []string{`"bandwidth"`, "The attributes are"}},
		"token as attribute": {attribute("HF_TOKEN", testToken), []string{"HF_TOKEN", "nodePublishSecretRef"}},
		"token, two lines":   {secret("HF_TOKEN", "a\nb"), []string{"HF_TOKEN", "line break"}},
		"token, control":     {secret("token", "hf_\x00"), []string{"secret key token"}},
		"token, space":       {secret("HUGGING_FACE_HUB_TOKEN", "Bearer "+testToken), []string{"HUGGING_FACE_HUB_TOKEN", "space"}},
		"token, not ASCII":   {secret("HF_TOKEN", "hf_é"), []string{"HF_TOKEN"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := publishRequest("vol", somewhere)
			if _, err := parsePublish(r, DefaultDriver); err != nil {
				t.Fatalf("the request is bad before it is broken: %v", err)
			}
			test.broken(r)
			got, err := parsePublish(r, DefaultDriver)
			wantCode(t, err, codes.InvalidArgument)
			if err == nil {
				t.Fatalf("accepted: %v", got)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("text lacks %q: %v", want, err)
				}
			}
			for _, value := range append(slices.Collect(maps.Values(r.Secrets)), testToken) {
				if strings.Contains(err.Error(), value) {
					t.Errorf("text holds a secret: %v", err)
				}
			}
		})
	}
}

func TestPublishAcceptsWhatIsUnusual(t *testing.T) {
	for name, change := range map[string]func(*spec.NodePublishVolumeRequest){
		"a PersistentVolume without readOnly": func(r *spec.NodePublishVolumeRequest) {
			r.Readonly, r.VolumeContext[ephemeral] = false, "false"
		},
		"no pod info":           func(r *spec.NodePublishVolumeRequest) { r.VolumeContext = map[string]string{"repo": "gpt2"} },
		"a reader's capability": func(r *spec.NodePublishVolumeRequest) { r.VolumeCapability.AccessMode.Mode = 3 },
		"empty optional attributes (a chart's defaults)": func(r *spec.NodePublishVolumeRequest) {
			for _, name := range []string{"revision", "layout", "include", "exclude"} {
				r.VolumeContext[name] = ""
			}
		},
		"a key of a later kubelet": func(r *spec.NodePublishVolumeRequest) { r.VolumeContext[kubeletPrefix+"new"] = "x" },
		"no secret":                func(r *spec.NodePublishVolumeRequest) { r.Secrets = nil },
		"a secret of other keys":   func(r *spec.NodePublishVolumeRequest) { r.Secrets = map[string]string{"tls.key": "a\nb"} },
		"an empty token":           func(r *spec.NodePublishVolumeRequest) { r.Secrets = map[string]string{"HF_TOKEN": "\n"} },
	} {
		r := publishRequest("vol", somewhere)
		change(r)
		if got, err := parsePublish(r, DefaultDriver); err != nil || got.GetRevision() != "main" || got.GetWritable() == r.Readonly {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestTokenKeysInOrder(t *testing.T) {
	secrets := map[string]string{"HF_TOKEN": "first", "HUGGING_FACE_HUB_TOKEN": "second", "token": "third", "other": "fourth"}
	for _, want := range []string{"first", "second", "third", ""} {
		if got, err := parseToken(secrets); got != want || err != nil {
			t.Errorf("parseToken = %q, %v, want %q", got, err, want)
		}
		for _, key := range tokenKeys {
			if secrets[key] == want {
				delete(secrets, key)
			}
		}
	}
}

func TestAnEmptyTokenDoesNotHideAnother(t *testing.T) {
	for _, empty := range []string{"", "\n", " \t\r\n"} {
		got, err := parseToken(map[string]string{"HF_TOKEN": empty, "HUGGING_FACE_HUB_TOKEN": empty, "token": testToken + "\n"})
		if got != testToken || err != nil {
			t.Errorf("beside %q under the other keys: parseToken = %q, %v", empty, got, err)
		}
	}
}

func FuzzAttributes(f *testing.F) {
	for _, seed := range [][3]string{
		{"repo", "Qwen/Qwen3-0.6B", "*.json"}, {"revision", "refs/pr/1", "a,b\nc/"}, {"layout", "hub-cache", ","},
		{"include", "[!a]*", "\x00"}, {"revison", "main", ""}, {ephemeral, "true", "é"}, {"repo", "datasets/a", " "},
		{"", "", "*"}, {"repo", "../../etc", "x"}, {strings.Repeat("x", 300), "\xff", "a\\,b"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, name, value, include string) {
		r := publishRequest("vol", somewhere)
		r.VolumeContext["include"] = include
		r.VolumeContext[name] = value
		r.Secrets["token"] = value
		got, err := parsePublish(r, DefaultDriver)
		if err != nil {
			wantCode(t, err, codes.InvalidArgument)
			if strings.Contains(err.Error(), testToken) {
				t.Errorf("secret in %v", err)
			}
			return
		}
		if _, err := fetcher.ParseRepo(got.GetRepo()); err != nil {
			t.Errorf("accepted repo %q: %v", got.GetRepo(), err)
		}
		if _, err := fetcher.ParseRef(got.GetRevision()); err != nil {
			t.Errorf("accepted revision %q: %v", got.GetRevision(), err)
		}
		if _, err := fetcher.NewFilter(got.GetInclude(), got.GetExclude()); err != nil {
			t.Errorf("accepted patterns %q %q: %v", got.GetInclude(), got.GetExclude(), err)
		}
		if _, err := proto.Marshal(got); err != nil { // a string that is not UTF-8 cannot be sent
			t.Errorf("cannot be sent to the agent: %v", err)
		}
	})
}
