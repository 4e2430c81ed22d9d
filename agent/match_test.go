package agent

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

// longNames lists files of evil/name that hostile patterns take minutes for.
type longNames struct{ stuck }

func (l longNames) Manifest(ctx context.Context, rev fetcher.Revision, cred fetcher.Secret) (*fetcher.Manifest, error) {
	if rev.Repo.String() != "evil/name" {
		return l.stuck.Manifest(ctx, rev, cred)
	}
	var files []fetcher.File
	for i := range 2000 {
		p, err := fetcher.ParsePath(strings.Repeat(strings.Repeat("a", 250)+"/", 12) + fmt.Sprintf("%05d", i))
		if err != nil {
			return nil, err
		}
		files = append(files, fetcher.File{Path: p, Size: 10, Digest: l.file.Digest})
	}
	return fetcher.NewManifest(rev, "stuck", files)
}

func TestOnePodsPatternsTakeFewProcessorsAndHoldUpNoPlainOnes(t *testing.T) {
	digest, _ := fetcher.NewDigest(fetcher.SHA256, strings.Repeat("0", 64))
	model, _ := fetcher.ParsePath("model.bin")
	a, stop := runOn(t, storetest.Open(t), longNames{stuck{fetcher.File{Path: model, Size: 10, Digest: digest}}})
	defer stop()
	ref, _ := fetcher.ParseRef("main")
	wait := func(volume, name string, include ...string) {
		repo, _ := fetcher.ParseRepo(name)
		f, err := fetcher.NewFilter(include, nil)
		if err != nil {
			t.Error(err)
		}
		a.Acquire(t.Context(), Request{Volume: store.Volume{ID: volume, Target: "/t"}, Repo: repo, Ref: ref, Filter: f, Layout: store.Snapshot})
	}
	const volumes = 6
	for i := range volumes {
		var hostile []string
		for j := range 4 {
			hostile = append(hostile, "*"+strings.Repeat("a", 1000)+fmt.Sprintf("b%d", i*4+j))
		}
		go wait(fmt.Sprint(i), "evil/name", hostile...)
	}
	buf := make([]byte, 1<<20)
	matching := func() int {
		return strings.Count(string(buf[:runtime.Stack(buf, true)]), "fetcher.(*Manifest).Select(")
	}
	until := func(what string, happened func() bool) {
		for limit := time.Now().Add(20 * time.Second); !happened(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("it never came to be that %s; %d match patterns", what, matching())
			}
		}
	}
	until("all have had their moment", func() bool {
		a.mu.Lock()
		flights := len(a.flights)
		a.mu.Unlock()
		return flights == volumes && len(a.matching) == matchPlaces && matching() == matchPlaces
	})
	go wait("plain", "org/name", "*.bin")
	until("who has plain patterns goes on", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, f := range a.flights {
			if f.waiters[store.Volume{ID: "plain", Target: "/t"}] != nil {
				return strings.Contains(f.progress.waiting().Progress, "% of 10 B")
			}
		}
		return false
	})
}
