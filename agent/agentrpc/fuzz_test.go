package agentrpc

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ballast-csi/ballast/agent/agentpb"
	"github.com/ballast-csi/ballast/fetcher"
)

// A whole request, as gRPC hands it over. What parse lets through is what the types say.
func FuzzAcquireRequest(f *testing.F) {
	add := func(edit func(*agentpb.AcquireRequest)) {
		r := &agentpb.AcquireRequest{
			Volume: volume("one"), Pod: &agentpb.Pod{Namespace: "ns", Name: "pod", Uid: "1-2"}, Repo: "datasets/org/name", Revision: "refs/pr/1",
			Include: []string{"*.json"}, Exclude: []string{"[!a]*"}, Token: "hf_secretsecret", Wait: durationpb.New(1),
		}
		edit(r)
		data, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	add(func(*agentpb.AcquireRequest) {})
	add(func(r *agentpb.AcquireRequest) { r.Volume = nil })
	add(func(r *agentpb.AcquireRequest) { r.Volume.TargetPath = "/a/../b\x00" })
	add(func(r *agentpb.AcquireRequest) { r.Repo, r.Layout = "../etc", agentpb.Layout_HUB_CACHE })
	add(func(r *agentpb.AcquireRequest) { r.Revision, r.Layout = strings.Repeat("a", 40), 99 })
	add(func(r *agentpb.AcquireRequest) { r.Include = []string{"", "a/", "\n"} })
	add(func(r *agentpb.AcquireRequest) { r.Wait = &durationpb.Duration{Seconds: -1 << 62, Nanos: 1<<31 - 1} })
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		var in agentpb.AcquireRequest
		if proto.Unmarshal(data, &in) != nil {
			return
		}
		_ = in.GetWait().AsDuration() // of any length
		got, err := parse(&in)
		if err != nil {
			if token := in.GetToken(); len(token) > 8 && strings.Contains(err.Error(), token) && !strings.Contains(without(&in), token) {
				t.Errorf("the token in %v", err)
			}
			return
		}
		if got.Volume.ID == "" || !filepath.IsAbs(got.Volume.Target) {
			t.Errorf("volume %+v", got.Volume)
		}
		if again, err := fetcher.ParseRepo(got.Repo.String()); err != nil || again != got.Repo {
			t.Errorf("repository %q: %v", got.Repo, err)
		}
		if again, err := fetcher.ParseRef(got.Ref.String()); err != nil || again != got.Ref {
			t.Errorf("revision %q: %v", got.Ref, err)
		}
		if again, err := fetcher.NewFilter(got.Filter.Include(), got.Filter.Exclude()); err != nil || again != got.Filter {
			t.Errorf("patterns %q %q: %v", got.Filter.Include(), got.Filter.Exclude(), err)
		}
		if token := in.GetToken(); len(token) > 8 && strings.Contains(fmt.Sprintf("%v %+v %#v", got, got, got), token) && !strings.Contains(without(&in), token) {
			t.Errorf("the token in %+v", got)
		}
	})
}

// without is all that a request says but its token, in which a text may be by chance.
func without(in *agentpb.AcquireRequest) string {
	in = proto.CloneOf(in)
	in.Token = ""
	got, err := parse(in)
	return fmt.Sprintf("%v %+v %#v %v", got, got, got, err)
}
