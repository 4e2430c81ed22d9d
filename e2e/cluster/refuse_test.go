package cluster

import (
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ballast-csi/ballast/e2e/hub"
)

// TestRefusalsSayWhatToDo: what a person must mend is told on the pod at once, nothing
// of it stays on the node, and the pod can be deleted.
func TestRefusalsSayWhatToDo(t *testing.T) {
	w := theWorld(t)
	reader, stranger, revoked := w.token("reader"), w.token("stranger"), w.token("nobody")
	open, gated, private := w.named(t, "org/refuse-open"), w.named(t, "org/refuse-gated"), w.named(t, "org/refuse-private")
	w.hub.Gated(gated.repo, reader)
	w.hub.Private(private.repo, reader)
	w.hub.Accounts(stranger)
	ns := w.namespace(t)
	w.secret(t, ns, "stranger", "HF_TOKEN", stranger)
	w.secret(t, ns, "revoked", "HF_TOKEN", revoked)
	w.secret(t, ns, "other-key", "hugging-face", reader)

	writable := inline(open.repo)
	writable.CSI.ReadOnly = nil
	nameless := inline("")
	delete(nameless.CSI.VolumeAttributes, "repo")
	cases := []struct {
		name   string
		volume corev1.VolumeSource
		words  []string // of the event
	}{
		{"not-read-only", writable, []string{"must be read-only", "readOnly: true", "repo: " + open.repo}},
		{"unknown-attribute", inline(open.repo, "revison", "main"), []string{`"revison" is unknown`, "Did you mean revision?", "exclude, include, layout, repo, revision"}},
		{"no-repo-attribute", nameless, []string{"attribute repo is missing", "org/name"}},
		{"no-such-repo", inline("org/refuse-nowhere"), []string{"org/refuse-nowhere", "private or does not exist", "check the repo attribute", "HF_TOKEN in nodePublishSecretRef"}},
		{"no-such-branch", inline(open.repo, "revision", "v9"), []string{open.repo, "v9", "revision does not exist", "check the revision attribute"}},
		{"no-such-commit", inline(open.repo, "revision", strings.Repeat("0123456789", 4)), []string{open.repo, "0123456789", "revision does not exist", "check the revision attribute"}},
		{"gated-no-token", inline(gated.repo), []string{gated.repo, "is gated", "accept the repository's conditions", "HF_TOKEN", "nodePublishSecretRef"}},
		{"gated-stranger", with("stranger", inline(gated.repo)), []string{gated.repo, "is gated", "accept the repository's conditions", "as the account of the Secret's HF_TOKEN"}},
		{"private-no-token", inline(private.repo), []string{private.repo, "private or does not exist", "HF_TOKEN in nodePublishSecretRef"}},
		{"private-other-key", with("other-key", inline(private.repo)), []string{private.repo, "private or does not exist", "a Secret with key HF_TOKEN"}},
		{"private-stranger", with("stranger", inline(private.repo)), []string{private.repo, "private or does not exist", "account of the Secret's HF_TOKEN may read it"}},
		{"private-bad-token", with("revoked", inline(private.repo)), []string{private.repo, "token is not valid", "valid token into the Secret"}},
		{"empty-pattern", inline(open.repo, "include", " , "), []string{"attribute include holds no pattern", "*.safetensors"}},
		{"pattern-of-nothing", inline(open.repo, "include", "*.gguf"), []string{open.repo, "leave no file", "check the include and exclude attributes"}},
		// kubelet's own words: nothing comes as far as Ballast.
		{"no-such-secret", with("forgotten", inline(open.repo)), []string{"secret", "forgotten", ns}},
	}

	before := w.kept(t)
	pods := make([]*corev1.Pod, len(cases))
	for i, c := range cases {
		pods[i] = w.create(t, w.pod(ns, c.name, &c.volume))
	}
	for i, c := range cases {
		said := w.eventOf(t, pods[i], 20*time.Second, c.words...)
		t.Logf("%s: %s", c.name, said)
		for _, token := range []string{reader, stranger, revoked} {
			if strings.Contains(strings.Join(w.messages(t, pods[i]), "\n"), token) {
				t.Errorf("%s: an event has a token", c.name)
			}
		}
	}
	w.nothingFor(t, pods...)
	slowest := w.removeAll(t, pods, 10*time.Second)
	for _, p := range pods {
		w.noTraces(t, p, 10*time.Second)
	}
	for path, state := range w.kept(t) {
		if _, ok := before[path]; !ok {
			t.Errorf("left in the cache: %s: %s", path, state)
		}
	}
	t.Logf("%d refusals, nothing kept of them; the last pod was gone %s after it was deleted", len(cases), round(slowest))
}

// TestPrivateRepositoryIsForThoseWhoMayReadIt: also when its bytes are on the node.
func TestPrivateRepositoryIsForThoseWhoMayReadIt(t *testing.T) {
	w := theWorld(t)
	m := w.publish(t, hub.SmallModel)
	readers, strangers := w.token("reader"), w.token("stranger")
	w.hub.Private(m.repo, readers)
	w.hub.Accounts(strangers)
	ns := w.namespace(t)
	w.secret(t, ns, "reader", "HF_TOKEN", readers)
	w.secret(t, ns, "stranger", "HF_TOKEN", strangers)
	reader, stranger, nobody := with("reader", inline(m.repo)), with("stranger", inline(m.repo)), inline(m.repo)

	first := w.create(t, w.pod(ns, "reader", &reader))
	w.running(t, first, time.Minute)
	w.check(t, first, modelDir, m, "")
	cold := w.hub.Traffic(m.repo)

	others := []*corev1.Pod{w.create(t, w.pod(ns, "stranger", &stranger)), w.create(t, w.pod(ns, "nobody", &nobody))}
	for _, p := range others {
		w.eventOf(t, p, 20*time.Second, "private or does not exist", "HF_TOKEN")
	}
	w.nothingFor(t, others...)
	second := w.create(t, w.pod(ns, "reader-again", &reader))
	w.running(t, second, time.Minute)
	if more := w.hub.Traffic(m.repo).Since(cold).Total(); more != 0 {
		t.Errorf("%d bytes were fetched a second time", more)
	}
	pods := append(others, first, second)
	w.removeAll(t, pods, 30*time.Second)
	for _, p := range pods {
		w.noTraces(t, p, 10*time.Second)
	}
	t.Logf("%d bytes fetched with the reader's token, for two pods of its; two others were refused on the same node", cold.Total())
}

// with names a Secret for v.
func with(secret string, v corev1.VolumeSource) corev1.VolumeSource {
	v.CSI.NodePublishSecretRef = &corev1.LocalObjectReference{Name: secret}
	return v
}

// secret makes one with a token under key, which must be one that is searched for.
func (w *world) secret(t *testing.T, ns, name, key, token string) {
	t.Helper()
	if !strings.Contains(token, canary) {
		t.Fatalf("Secret %s: nobody would look for this token: make it with world.token", name)
	}
	if _, err := w.client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name},
		StringData: map[string]string{key: token}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// named publishes a small model under a name of its own.
func (w *world) named(t *testing.T, repo string) model {
	t.Helper()
	return w.upload(t, model{repo: repo, files: hub.SmallModel(seeds.Add(1)).Files()})
}

// kept is what the cache has of content; what it knows of repositories may change. It
// is empty where the node is out of reach.
func (w *world) kept(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	if w.machine == nil {
		return all
	}
	for _, below := range []string{"blobs", "ingests", "views", "pins"} {
		for path, state := range w.cacheState(t, below) {
			all[below+path] = state
		}
	}
	return all
}

// nothingFor fails the test if any of pods runs, or has a mount or a pin.
func (w *world) nothingFor(t *testing.T, pods ...*corev1.Pod) {
	t.Helper()
	for _, p := range pods {
		if one, _ := w.lives.get(p.UID); !one.running.IsZero() {
			t.Errorf("%s runs", p.Name)
		}
		if w.machine == nil {
			continue
		}
		for _, trace := range w.traces(t, p) {
			// Pods have mounts of kubelet's own (tmpfs for tokens), but not these.
			if strings.HasPrefix(trace, "pinned") || strings.Contains(trace, "kubernetes.io~csi") {
				t.Errorf("%s: %s", p.Name, trace)
			}
		}
	}
}

// removeAll deletes pods at once, and returns how long the last was there.
func (w *world) removeAll(t *testing.T, pods []*corev1.Pod, limit time.Duration) (slowest time.Duration) {
	t.Helper()
	asked := time.Now()
	var deleting sync.WaitGroup
	errs := make([]error, len(pods))
	for i, p := range pods {
		deleting.Go(func() {
			errs[i] = w.client.CoreV1().Pods(p.Namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{})
		})
	}
	deleting.Wait()
	for i, p := range pods {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		one := w.lives.wait(t, p.UID, limit, "gone", func(l life) bool { return !l.gone.IsZero() })
		slowest = max(slowest, one.gone.Sub(asked))
	}
	return slowest
}
