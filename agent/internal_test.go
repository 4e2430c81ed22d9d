package agent

import (
	"context"
	"errors"
	"io/fs"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballast-csi/ballast/agent/store"
	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/fetcher"
)

func TestKeyedMutexLetsOneInAtATimeAndForgetsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k keyedMutex[string]
		unlock, err := k.lock(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if unlockB, err := k.lock(t.Context(), "b"); err != nil {
			t.Fatal("another key had to wait: ", err)
		} else {
			unlockB()
		}
		var after atomic.Bool
		go func() {
			unlock, err := k.lock(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			after.Store(true)
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.lock(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a held key: %v, want the context's end", err)
		}
		if after.Load() {
			t.Error("two hold one key")
		}
		unlock()
		synctest.Wait()
		if !after.Load() {
			t.Error("the next in line was not let in")
		}
		if len(k.held) != 0 {
			t.Errorf("%d keys are kept that nobody holds", len(k.held))
		}
	})
}

func TestProgressTellsHowFarHowFastAndWhatStandsInTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		repo, _ := fetcher.ParseRepo("Qwen/Qwen3-0.6B")
		commit, _ := fetcher.ParseCommit(strings.Repeat("9d3b8e01", 5))
		p := newProgress(fetcher.Revision{Repo: repo, Commit: commit}, []fetcher.Source{NewShelf("pvc", nil), NewShelf("hub", nil)})
		if got, want := p.waiting().Progress, "Qwen/Qwen3-0.6B@9d3b8e0: choosing files by include and exclude"; got != want {
			t.Errorf("progress %q, want %q", got, want)
		}
		p.list(1_500_000_000)
		p.restart()
		p.sources.ask("hub", fetcher.File{})
		p.hold(30_000_000)
		for range 2 {
			time.Sleep(time.Second) // of the bubble's clock
			p.fetch("hub", 300_000_000)
		}
		if got, want := p.waiting().Progress, "Qwen/Qwen3-0.6B@9d3b8e0: 42% of 1.5 GB, 300 MB/s, about 3s left, from hub"; got != want {
			t.Errorf("progress %q, want %q", got, want)
		}
		time.Sleep(silence)
		if got, want := p.waiting().Progress, "Qwen/Qwen3-0.6B@9d3b8e0: 42% of 1.5 GB, nothing has come from hub for 10s"; got != want {
			t.Errorf("progress %q, want %q", got, want)
		}
		done := p.begin()
		time.Sleep(silence)
		if got, want := p.waiting().Progress, "Qwen/Qwen3-0.6B@9d3b8e0: 42% of 1.5 GB, another pod's download brings the same files, or what was kept of them is read"; got != want {
			t.Errorf("progress %q, want %q", got, want)
		}
		done()
		if got := p.waiting().Progress; strings.Contains(got, "nothing has come") {
			t.Errorf("progress %q, before anything was asked for", got)
		}
		p.stuck(errors.New("hub answered 503"))
		if got := p.waiting().Progress; !strings.Contains(got, "42% of 1.5 GB; waiting: hub answered 503") {
			t.Errorf("progress %q does not say what stands in the way", got)
		}
		time.Sleep(time.Minute)
		p.fetch("hub", 1_000_000)
		p.fetch("hub", -1_000_000)
		if got := p.waiting(); strings.Contains(got.Progress, "503") || got.Done != 630_000_000 {
			t.Errorf("after bytes flowed again: %+v", got)
		}
		p.fetch("hub", 870_000_000)
		if got := p.waiting().Progress; !strings.Contains(got, "100% of 1.5 GB, being verified") {
			t.Errorf("progress %q of a whole snapshot", got)
		}
	})
}

func TestATokenThatWasNotSentSaysNothingOfTheRepo(t *testing.T) {
	for _, anonymous := range []error{&fetcher.UnreachableError{Err: errors.New("503")}, fetcher.ErrRevisionNotFound} {
		if got := telling(anonymous, fetcher.ErrInsecure); got != anonymous {
			t.Errorf("after %v is told %v", anonymous, got)
		}
	}
	if got := telling(fetcher.ErrNotFound, fetcher.ErrInsecure); !errors.Is(got, fetcher.ErrInsecure) {
		t.Errorf("told %v, not what to do", got)
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_400: "999 kB", 999_600: "1.0 MB", 17_000_000: "17 MB", 1_500_000_000: "1.5 GB", 405_000_000_000: "405 GB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestAManifestIsReadOnceForAllWhoHoldIt(t *testing.T) {
	s := storetest.Open(t)
	repo, _ := fetcher.ParseRepo("org/name")
	commit, _ := fetcher.ParseCommit(strings.Repeat("a", 40))
	storetest.Fill(t, s, repo, commit, map[string][]byte{"a": []byte("1")}, nil)
	m := manifests{store: s}
	got := make(chan *fetcher.Manifest, 8)
	for range cap(got) {
		go func() {
			read, err := m.get(t.Context(), store.Origin{Repo: repo}, commit)
			if err != nil {
				t.Error(err)
			}
			got <- read
		}()
	}
	first := <-got
	for range cap(got) - 1 {
		if other := <-got; other != first {
			t.Error("it was read twice")
		}
	}
	if other, err := m.get(t.Context(), store.Origin{Repo: repo, ID: "another"}, commit); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another of its name lists %v, %v", other, err)
	}
	runtime.KeepAlive(first)
}
