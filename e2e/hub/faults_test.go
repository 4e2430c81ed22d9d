package hub_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ballast-csi/ballast/agent/store/storetest"
	"github.com/ballast-csi/ballast/e2e/hub"
	"github.com/ballast-csi/ballast/fetcher"
)

const weights = "model-00001-of-00001.safetensors"

// sized is a model of one file that counts.
func sized(bytes int) map[string][]byte {
	return hub.Model{Seed: 3, Weights: []int{bytes}}.Files()
}

func sum(files map[string][]byte) (n int64) {
	for _, content := range files {
		n += int64(len(content))
	}
	return n
}

// open starts reading a file, and returns when the headers are there.
func open(t *testing.T, h *hub.Hub, repo, path string) io.ReadCloser {
	t.Helper()
	req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL()+"/"+repo+"/resolve/main/"+path, nil))(t)
	res := must((&http.Transport{DisableKeepAlives: true}).RoundTrip(req))(t)
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, res.Status)
	}
	return res.Body
}

func TestThrottleHoldsForAllConnectionsTogetherAndChangesAtOnce(t *testing.T) {
	h, files := start(t, 0), sized(4_000_000)
	upload(t, h, "org/model", files)
	h.Throttle("org/model", 2_000_000)
	started := time.Now()
	var readers sync.WaitGroup
	for range 2 {
		body := open(t, h, "org/model", weights)
		readers.Go(func() { io.CopyN(io.Discard, body, 1_000_000) })
	}
	readers.Wait()
	if took := time.Since(started); took < 800*time.Millisecond || took > 2*time.Second {
		t.Errorf("2 MB at 2 MB/s took %s", took)
	}

	h.Throttle("org/model", 100) // a chunk of it is 2 bytes; the file would take 11 hours
	body := open(t, h, "org/model", weights)
	io.CopyN(io.Discard, body, 10)
	started = time.Now()
	h.Throttle("org/model", 0)
	if n, err := io.Copy(io.Discard, body); err != nil || n != 4_000_000-10 {
		t.Errorf("%d bytes: %v", n, err)
	}
	if took := time.Since(started); took > time.Second {
		t.Errorf("%s after the throttle was lifted", took)
	}
}

func TestCutEndsAnswersEarlyAndTheEngineGoesOn(t *testing.T) {
	h, files, s := start(t, 0), sized(2*fetcher.PieceSize), storetest.Open(t)
	rev := upload(t, h, "org/model", files)
	h.Cut("org/model", 1_000_000, 3)
	if n, err := io.Copy(io.Discard, open(t, h, "org/model", weights)); !errors.Is(err, io.ErrUnexpectedEOF) || n != 1_000_000 {
		t.Errorf("%d bytes: %v", n, err)
	}
	if err := fetch(t, h, s, rev, 0); err != nil {
		t.Fatal(err)
	}
	// It goes on within a Piece: what came before a cut is not sent again.
	if sent := h.Traffic("org/model").Total(); sent != sum(files)+1_000_000 {
		t.Errorf("%d bytes were sent; want those of the model, %d, and of the first answer", sent, sum(files))
	}
	if n, err := io.Copy(io.Discard, open(t, h, "org/model", weights)); err != nil || n != 2*fetcher.PieceSize {
		t.Errorf("after three cuts: %d bytes: %v", n, err)
	}
}

func TestCutEndsAnAnswerUnderWay(t *testing.T) {
	h := start(t, 0)
	upload(t, h, "org/model", sized(1_000_000))
	release := h.Stall("org/model")
	defer release()
	body := open(t, h, "org/model", weights)
	h.Cut("org/model", 0, 1)
	if n, err := io.Copy(io.Discard, body); !errors.Is(err, io.ErrUnexpectedEOF) || n != 0 {
		t.Errorf("%d bytes: %v", n, err)
	}
}

func TestStallSendsNothingUntilReleased(t *testing.T) {
	h, files := start(t, 0), sized(1_000_000)
	upload(t, h, "org/model", files)
	release := h.Stall("org/model")
	again := h.Stall("org/model")
	body := open(t, h, "org/model", weights) // the headers come
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, body)
		read <- err
	}()
	release()
	release() // no more than once
	select {
	case err := <-read:
		t.Errorf("read before both stalls were released: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if sent := h.Traffic("org/model"); sent.Total() != 0 || !sent.Last.IsZero() {
		t.Errorf("sent while stalled: %+v", sent)
	}
	again()
	if err := <-read; err != nil {
		t.Error(err)
	}
}

func TestTheEngineLeavesAStalledHubAndComesBack(t *testing.T) {
	h, files, s := start(t, 0), sized(1_000_000), storetest.Open(t)
	rev := upload(t, h, "org/model", files)
	release := h.Stall("org/model")
	time.AfterFunc(1500*time.Millisecond, release) // after the engine gave up once
	if err := fetch(t, h, s, rev, time.Second); err != nil {
		t.Error(err)
	}
}

func TestFlipIsFoundAndNamesTheFile(t *testing.T) {
	h, files, s := start(t, 0), sized(2*fetcher.PieceSize), storetest.Open(t)
	rev := upload(t, h, "org/model", files)
	restore := h.Flip("org/model", weights, fetcher.PieceSize+7)
	_, wrong := get(t, http.MethodGet, h.URL()+"/org/model/resolve/main/"+weights, "")
	for i, b := range files[weights] {
		if flipped := i == fetcher.PieceSize+7; (b^wrong[i] == 1) != flipped || b != wrong[i] && !flipped {
			t.Fatalf("byte %d is %x; it was uploaded as %x", i, wrong[i], b)
		}
	}
	var mismatch *fetcher.MismatchError
	if err := fetch(t, h, s, rev, 0); !errors.As(err, &mismatch) || mismatch.File.Path.String() != weights || mismatch.Source != "hub" {
		t.Errorf("with a bit flipped: %v", err)
	}
	restore()
	restore() // no more than once
	release := h.Stall("org/model")
	body := open(t, h, "org/model", "config.json")
	again := h.Flip("org/model", "config.json", 0)
	release()
	if got := must(io.ReadAll(body))(t); got[0]^1 != files["config.json"][0] {
		t.Errorf("an answer under way: %s", got)
	}
	again()
	if err := fetch(t, h, s, rev, 0); err != nil {
		t.Errorf("with good bytes: %v", err)
	}
}

func TestStopCutsEverythingAndResumeIsWhereItWas(t *testing.T) {
	h, files, s := start(t, 0), sized(1_000_000), storetest.Open(t)
	rev := upload(t, h, "org/model", files)
	url := h.URL()
	release := h.Stall("org/model")
	defer release()
	body := open(t, h, "org/model", weights)
	if err := errors.Join(h.Stop(), h.Stop()); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, body); err == nil {
		t.Errorf("%d bytes came from a stopped Hub", n)
	}
	if _, err := http.Get(url); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a stopped Hub: %v", err)
	}
	if _, err := newClient(t, h).Resolve(t.Context(), rev.Repo, refOf(t, "main"), fetcher.Secret{}); !fetcher.Unreachable(err) {
		t.Errorf("a stopped Hub: %v", err)
	}
	release()
	upload(t, h, "org/other", sized(1000)) // past the proxy
	if err := errors.Join(h.Resume(), h.Resume()); err != nil || h.URL() != url {
		t.Fatalf("%s, was %s: %v", h.URL(), url, err)
	}
	if err := fetch(t, h, s, rev, 0); err != nil {
		t.Error(err)
	}
}

func TestAwayIsOneRepositorysAndHoldsForAnswersUnderWay(t *testing.T) {
	h := start(t, 0)
	upload(t, h, "org/model", sized(4_000_000))
	upload(t, h, "org/other", sized(1000))
	h.Throttle("org/model", 1000)
	under := open(t, h, "org/model", weights)
	back := h.Away("org/model")
	if n, err := io.Copy(io.Discard, under); err == nil || n >= 4_000_000 {
		t.Errorf("an answer under way went on: %d bytes, %v", n, err)
	}
	req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL()+"/api/models/org/model/revision/main", nil))(t)
	if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
		t.Errorf("there was an answer: %s", res.Status)
		res.Body.Close()
	}
	if res, _ := get(t, http.MethodGet, h.URL()+"/api/models/org/other/revision/main", ""); res.StatusCode != http.StatusOK {
		t.Errorf("another repository: %s", res.Status)
	}
	back()
	if res, _ := get(t, http.MethodGet, h.URL()+"/api/models/org/model/revision/main", ""); res.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %s", res.Status)
	}
}

func TestARevokedTokenIsRefusedEverywhere(t *testing.T) {
	h := start(t, 0)
	upload(t, h, "org/model", sized(1000))
	upload(t, h, "org/public", sized(1000))
	h.Private("org/model", "hf_one", "hf_other")
	status := func(repo, token string) int {
		res, _ := get(t, http.MethodHead, h.URL()+"/"+repo+"/resolve/main/"+weights, token)
		return res.StatusCode
	}
	if was := status("org/model", "hf_one"); was != http.StatusOK {
		t.Fatalf("before: %d", was)
	}
	h.Revoke("hf_one")
	for _, repo := range []string{"org/model", "org/public"} {
		if is := status(repo, "hf_one"); is != http.StatusUnauthorized {
			t.Errorf("%s: %d; want 401", repo, is)
		}
	}
	if is := status("org/model", "hf_other"); is != http.StatusOK {
		t.Errorf("another's: %d", is)
	}
}

func TestRateLimitOfOneRepositorySaysWhenToComeBack(t *testing.T) {
	h := start(t, 0)
	rev := upload(t, h, "org/model", sized(1000))
	upload(t, h, "org/other", sized(1000))
	client := newClient(t, h)
	resolve := func(repo string) error {
		_, err := client.Resolve(t.Context(), repoOf(t, repo), refOf(t, "main"), fetcher.Secret{})
		return err
	}
	h.RateLimit("org/model", time.Minute)
	var limited *fetcher.RateLimitedError
	if err := resolve("org/model"); !errors.As(err, &limited) || limited.RetryAfter < 55*time.Second || limited.RetryAfter > time.Minute {
		t.Errorf("limited: %v", err)
	}
	if _, err := client.Prove(t.Context(), rev.Repo, refOf(t, "main"), pathOf(t, weights), fetcher.Secret{}); !errors.As(err, &limited) {
		t.Errorf("limited: %v", err)
	}
	res, _ := get(t, http.MethodGet, h.URL()+"/org/model/resolve/main/config.json", "")
	if got := res.Header.Get("RateLimit"); res.StatusCode != http.StatusTooManyRequests || strings.Contains(got, ";r=0;") || res.Header.Get("Retry-After") == "" {
		t.Errorf("limited: %s, RateLimit %s", res.Status, got)
	}
	if err := resolve("org/other"); err != nil {
		t.Errorf("the other one: %v", err)
	}
	h.RateLimit("org/model", 0)
	if err := resolve("org/model"); err != nil {
		t.Errorf("lifted: %v", err)
	}
}

func TestTrafficIsWhatLeft(t *testing.T) {
	h, files, s := start(t, 0), hub.SmallModel(9).Files(), storetest.Open(t)
	rev := upload(t, h, "org/model", files)
	if before := h.Traffic("org/model"); before.Requests != 0 || before.Total() != 0 {
		t.Errorf("before anyone asked: %+v", before)
	}
	get(t, http.MethodHead, h.URL()+"/org/model/resolve/main/config.json", "")
	before := h.Traffic("org/model")
	if before.Requests != 1 || before.Total() != 0 {
		t.Errorf("a HEAD: %+v", before)
	}
	if err := fetch(t, h, s, rev, 0); err != nil {
		t.Fatal(err)
	}
	after := time.Now()
	got := h.Traffic("org/model").Since(before)
	for path, content := range files {
		if got.Bytes[path] != int64(len(content)) {
			t.Errorf("%s: %d bytes; want %d", path, got.Bytes[path], len(content))
		}
	}
	if got.Total() != sum(files) || got.Last.IsZero() || got.Last.After(after) || after.Sub(got.Last) > 5*time.Second {
		t.Errorf("%+v, done at %s", got, after)
	}
	if again := h.Traffic("org/model"); again.Since(again).Total() != 0 || !again.Since(again).Last.IsZero() {
		t.Errorf("nothing came since: %+v", again.Since(again))
	}
}
